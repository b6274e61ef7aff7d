# The R driver: keeps the state of R in the global environment and speaks the protocol of README.md. Read by kernel.R.
#
# It owns reading, evaluating and showing; its native part (r/kernel.c, built into the template by r/build.sh) owns the protocol socket
# and the console, so that cat, print, message and warnings stream as they happen. It must not leave anything in the global environment
# (but .Random.seed, which R's first draw would make) or on the search path. Invariant: interrupts are suspended except while the user's
# code runs, so that they end a run and never the kernel.

# R's compiler is off for the driver itself: compiling it would cost the start and the first runs 80 ms.
.jit_level <- .Internal(enableJIT(0L))

local(envir = new.env(parent = .BaseNamespaceEnv), {     # base functions come before what the user defines
  jit_level <- .jit_level
  rm(.jit_level, envir = globalenv())
  so <- Sys.getenv("CLOISTER_R_KERNEL", "/usr/local/lib/cloister/r/kernel.so")
  dll <- dyn.load(so)
  native <- lapply(c(setup = "kernel_setup", flush = "kernel_flush", read = "kernel_read", write = "kernel_write", system = "kernel_system"),
                   function(name) getNativeSymbolInfo(name, dll))
  .Call(native$setup, as.integer(Sys.getenv("CLOISTER_KERNEL_FD", "3")))
  Sys.unsetenv(c("CLOISTER_KERNEL_FD", "CLOISTER_R_KERNEL"))
  if (!l10n_info()[["UTF-8"]]) Sys.setlocale("LC_CTYPE", "C.UTF-8")

  # R's own seed is 16 bits of the clock, xor the pid: sandboxes of one second would draw alike. This is the generator's whole state.
  if (!exists(".Random.seed", globalenv(), inherits = FALSE)) {
    set.seed(0L)
    state <- get(".Random.seed", globalenv())
    state[-(1:2)] <- readBin("/dev/urandom", "integer", length(state) - 2L)
    assign(".Random.seed", state, globalenv())
    rm(state)
  }

  max_rows_html <- 60L
  max_columns_html <- 20L
  max_cells_data <- 200000L
  max_frames <- 40L
  run <- new.env()          # the run under way: id, count, file (its source), plots (files sent), calls (of its last error)
  run$count <- 0L
  plot_dir <- tempfile("plots-")
  dir.create(plot_dir)

  clean <- function(text) {
    text <- enc2utf8(text)
    if (all(validUTF8(text))) text else iconv(text, "UTF-8", "UTF-8", sub = "byte")
  }

  send <- function(message) {
    message$id <- run$id
    message <- rapply(message, clean, classes = "character", how = "replace")
    .Call(native$write, jsonlite::toJSON(message, auto_unbox = TRUE, null = "null", na = "null", digits = NA))
    NULL
  }

  # ---- plots: a device that writes one file a page; a file appears when its page is complete

  open_device <- function(...) {
    option <- function(name, default) getOption(paste0("repr.plot.", name), default)
    run$devices <- run$devices + 1L
    grDevices::png(file.path(plot_dir, sprintf("%d-%d-%%05d.png", run$count, run$devices)), type = "cairo", units = "in",
                   width = option("width", 7), height = option("height", 7), res = option("res", 120))
    run$device <- grDevices::dev.cur()
  }

  is_open <- function() {
    !is.null(run$device) && run$device %in% grDevices::dev.list() && identical(names(run$device), names(grDevices::dev.list())[match(run$device, grDevices::dev.list())])
  }

  close_device <- function() {
    if (is_open()) grDevices::dev.off(run$device)
    run$device <- NULL
  }

  send_plots <- function(main = FALSE) {
    files <- sort(list.files(plot_dir, full.names = TRUE))
    files <- files[file.size(files) > 0]      # the page being drawn has a file, still empty
    for (file in files) {
      image <- jsonlite::base64_enc(readBin(file, "raw", file.size(file)))
      unlink(file)
      send(list(op = "result", main = main && file == files[length(files)], data = list(`image/png` = image), extra = empty))
    }
  }

  empty <- structure(list(), names = character())

  # ---- values: what R would print, and for data frames a table and the columns

  shows_a_plot <- function(value) inherits(value, c("ggplot", "trellis", "recordedplot", "patchwork", "gtable"))

  as_text <- function(value) {
    paste(utils::capture.output(if (isS4(value)) methods::show(value) else print(value)), collapse = "\n")
  }

  as_column <- function(column) {
    if (inherits(column, "POSIXt")) format(column, "%Y-%m-%dT%H:%M:%OS3%z")
    else if (inherits(column, "Date")) format(column)
    else if (is.factor(column)) as.character(column)
    else if (is.logical(column) || is.numeric(column) && is.null(dim(column))) as.vector(column)
    else if (is.character(column)) as.vector(column)
    else vapply(seq_len(NROW(column)), function(i) paste(format(if (is.list(column)) column[[i]] else column[i]), collapse = ", "), "")
  }

  escape <- function(text) gsub(">", "&gt;", gsub("<", "&lt;", gsub("&", "&amp;", text, fixed = TRUE), fixed = TRUE), fixed = TRUE)

  as_table <- function(frame) {
    shown <- as.data.frame(frame)[seq_len(min(nrow(frame), max_rows_html)), seq_len(min(ncol(frame), max_columns_html)), drop = FALSE]
    cells <- vapply(shown, function(column) escape(as.character(as_column(column))), character(nrow(shown)))
    cells <- matrix(cells, nrow = nrow(shown))
    cells[is.na(cells)] <- "NA"
    row <- function(names, values) paste0("<tr><th>", names, "</th>", values, "</tr>")
    head <- row("", paste0("<th>", escape(names(shown)), "</th>", collapse = ""))
    body <- row(escape(row.names(shown)), apply(cells, 1, function(line) paste0("<td>", line, "</td>", collapse = "")))
    more <- if (nrow(shown) < nrow(frame) || ncol(shown) < ncol(frame)) sprintf("<p>%d rows, %d columns</p>", nrow(frame), ncol(frame)) else ""
    paste0("<table>\n<thead>", head, "</thead>\n<tbody>\n", if (nrow(shown)) paste0(body, collapse = "\n"), "\n</tbody>\n</table>", more)
  }

  as_bundle <- function(value) {
    bundle <- list(`text/plain` = as_text(value))
    if (is.data.frame(value) && length(value) > 0) {
      bundle$`text/html` <- as_table(value)
      if (nrow(value) * ncol(value) <= max_cells_data) bundle$`application/vnd.e2b.data` <- lapply(lapply(value, as_column), I)
    }
    if (inherits(value, "json")) bundle$`application/json` <- jsonlite::fromJSON(value, simplifyVector = FALSE)
    if (inherits(value, "html") && is.character(value)) bundle$`text/html` <- paste(value, collapse = "\n")
    bundle
  }

  show_value <- function(value, is_last) {
    if (shows_a_plot(value)) {
      close_device()
      send_plots()
      print(value)
      close_device()
      send_plots(is_last)
    } else {
      bundle <- as_bundle(value)
      if (nzchar(bundle$`text/plain`)) send(list(op = "result", main = is_last, data = bundle, extra = empty))
    }
  }

  # ---- errors: the frames of the user's code with their lines

  place <- function(call) {
    ref <- attr(call, "srcref")
    file <- if (!is.null(ref)) attr(ref, "srcfile")$filename
    if (is.null(file) || !startsWith(file, "cell ")) return(NULL)
    if (file == run$file) paste("line", ref[1L]) else paste0(file, ", line ", ref[1L])
  }

  one_line <- function(call) {
    text <- deparse(call, nlines = 2L)
    if (length(text) > 1L) paste(text[1L], "...") else text
  }

  own_call <- quote(eval(expr, globalenv()))

  call_of <- function(condition) {
    call <- conditionCall(condition)
    if (!identical(call, own_call)) call
  }

  # One line a frame, outermost first; frames of packages, which have no source here, are left out.
  frames_of <- function(calls) {
    calls <- calls[seq_along(calls) > run$depth]
    ends <- vapply(calls, function(call) is.function(call[[1L]]) || as.character(call[[1L]])[1L] %in% c(".handleSimpleError", ".signalSimpleWarning"), NA)
    calls <- calls[cumsum(ends) == 0L]
    places <- lapply(calls, place)
    if (length(calls) > 0L && is.null(places[[1L]])) places[[1L]] <- paste("line", run$at)
    keep <- !vapply(places, is.null, NA)
    lines <- sprintf("  %s: %s", unlist(places[keep]), vapply(calls[keep], one_line, ""))
    if (length(lines) > max_frames) lines <- c(lines[1:10], "  ...", utils::tail(lines, max_frames - 11L))
    if (length(lines) == 0L && !is.null(run$at)) lines <- paste("  line", run$at)
    lines
  }

  send_error <- function(condition) {
    message <- conditionMessage(condition)
    call <- call_of(condition)
    head <- if (is.null(call)) paste0("Error: ", message)
            else paste0("Error in ", one_line(call), " : ", if (nchar(message) > 60L) "\n  ", message)
    name <- setdiff(class(condition), c("simpleError", "condition", "rlang_error", "error"))[1L]
    lines <- frames_of(run$calls)
    send(list(op = "error", name = if (is.na(name)) "Error" else name, value = message,
              traceback = paste(c(head, if (length(lines)) c("Traceback:", lines)), collapse = "\n")))
  }

  # For a condition that cannot even say what it is.
  send_plainly <- function(e) {
    message <- paste(as.character(unclass(e)$message), collapse = " ")
    send(list(op = "error", name = "Error", value = message, traceback = paste("Error:", message)))
  }

  send_parse_error <- function(condition) {
    message <- sub("^cell [0-9]+:", "", conditionMessage(condition))
    text <- sub("^([0-9]+):([0-9]+): ", "line \\1, column \\2: ", message)
    send(list(op = "error", name = "ParseError", value = text, traceback = paste("Error:", text)))
  }

  on_warning <- function(w) {
    level <- getOption("warn")
    if (level >= 2L) return()          # R makes it an error
    call <- call_of(w)
    if (level >= 0L) cat("Warning message:\n", if (!is.null(call)) paste0("In ", one_line(call), " : "), conditionMessage(w), "\n", sep = "", file = stderr())
    tryInvokeRestart("muffleWarning")
  }

  # ---- a run

  user_eval <- function(expr) {
    .Internal(enableJIT(jit_level))
    on.exit(jit_level <<- .Internal(enableJIT(0L)))
    run$depth <- sys.nframe() + eval_frames
    allowInterrupts(withVisible(eval(expr, globalenv())))
  }

  eval_frames <- 0L
  eval_frames <- user_eval(quote(sys.nframe()))$value - run$depth     # how many frames lie between user_eval and the user's first

  evaluate <- function(code) {
    source <- srcfilecopy(run$file, strsplit(code, "\n", fixed = TRUE)[[1L]], isFile = FALSE)
    exprs <- tryCatch(parse(text = code, srcfile = source, keep.source = TRUE), error = identity)
    if (inherits(exprs, "error")) return(send_parse_error(exprs))
    refs <- attr(exprs, "srcref")
    for (i in seq_along(exprs)) {
      run$at <- refs[[i]][1L]
      out <- user_eval(exprs[[i]])
      send_plots()
      if (out$visible) allowInterrupts(show_value(out$value, i == length(exprs)))
    }
  }

  with_envs <- function(envs, body) {
    if (length(envs) == 0L) return(body)
    old <- Sys.getenv(names(envs), unset = NA, names = TRUE)
    on.exit({
      gone <- is.na(old)
      Sys.unsetenv(names(old)[gone])
      if (any(!gone)) do.call(Sys.setenv, as.list(old[!gone]))
    })
    do.call(Sys.setenv, envs)
    body
  }

  execute <- function(message) {
    run$id <- message$id
    run$count <- run$count + 1L
    run$file <- paste("cell", run$count)
    run$devices <- 0L
    run$calls <- run$at <- NULL
    run$depth <- 0L
    tryCatch(
      withCallingHandlers(
        with_envs(message$envs, evaluate(message$code)),
        error = function(e) run$calls <- sys.calls(),
        warning = on_warning),
      error = function(e) tryCatch(send_error(e), error = send_plainly),
      interrupt = function(i) send(list(op = "error", name = "KeyboardInterrupt", value = "", traceback = paste0("Interrupted\n  line ", run$at))))
    close_device()
    send_plots()
    send(list(op = "done", count = run$count))
  }

  # ---- child processes: output that is held back for a moment must be out before theirs, and an interrupt must reach them

  run_command <- function(command, intern, timeout, ...) {
    .Call(native$flush)
    if (intern || timeout > 0) return(.Internal(system(command, intern, timeout, ...)))
    status <- .Call(native$system, command)
    if (status == 127L) warning("error in running command", call. = FALSE)
    invisible(status)
  }

  with_command <- function(code) {
    if (is.call(code) && identical(code[[1L]], quote(.Internal)) && identical(code[[2L]][[1L]], quote(system))) {
      code <- code[[2L]]
      code[[1L]] <- run_command
    } else if (is.call(code)) {
      for (i in seq_along(code)) if (!identical(code[[i]], quote(expr = ))) code[[i]] <- with_command(code[[i]])
    }
    code
  }

  for (name in c("system", "system2")) {
    f <- get(name, baseenv())
    body(f) <- with_command(body(f))
    unlockBinding(name, baseenv())
    assign(name, f, baseenv())
    lockBinding(name, baseenv())
  }

  options(keep.source = TRUE, device = open_device, menu.graphics = FALSE, browserNLdisabled = TRUE)
  suspendInterrupts({
    .Call(native$write, '{"op":"ready"}')
    loadNamespace("jsonlite")     # while the agent takes the news
    while (!is.null(line <- .Call(native$read))) {
      message <- jsonlite::fromJSON(line, simplifyVector = FALSE)
      if (identical(message$op, "execute")) execute(message)
    }
  })
})
