# The R driver: keeps the state of R in the global environment and speaks the protocol of README.md. Read by main.R.
#
# It reads, evaluates and shows. Its native part (r/kernel.c, which r/build.sh builds into the template) owns the protocol socket and the
# console, so that cat, print, message and warnings stream as they happen. It must leave no name in the global environment (except
# .Random.seed, which R's first draw would make) or on the search path. Invariant: interrupts are suspended except while the user's code
# runs, so that they end a run and never the kernel.

# R's compiler is off for the driver itself: compiling it would cost the start and the first runs 80 ms.
.jit_level <- .Internal(enableJIT(0L))

local(envir = new.env(parent = .BaseNamespaceEnv), {     # base functions come before the user's
  jit_level <- .jit_level
  rm(.jit_level, envir = globalenv())
  so <- Sys.getenv("CLOISTER_R_KERNEL", "/usr/local/lib/cloister/r/kernel.so")
  dll <- dyn.load(so)
  names <- c("setup", "flush", "read", "write", "system", "watch", "hold", "numbers")
  native <- lapply(structure(paste0("kernel_", names), names = names), function(name) getNativeSymbolInfo(name, dll))
  .Call(native$setup, as.integer(Sys.getenv("CLOISTER_KERNEL_FD", "3")))
  Sys.unsetenv(c("CLOISTER_KERNEL_FD", "CLOISTER_R_KERNEL"))
  if (!l10n_info()[["UTF-8"]]) Sys.setlocale("LC_CTYPE", "C.UTF-8")

  # R's own seed is 16 bits of the clock, xor the pid: sandboxes of the same second would draw the same numbers. This is the generator's whole state.
  seed <- function() {
    set.seed(0L)     # of the kind of generator that the user has chosen
    state <- get(".Random.seed", globalenv())
    if (length(state) != 626L) return(set.seed(readBin("/dev/urandom", "integer", 1L)))
    state[-(1:2)] <- readBin("/dev/urandom", "integer", length(state) - 2L)     # Mersenne-Twister, the default
    assign(".Random.seed", state, globalenv())
  }
  if (!exists(".Random.seed", globalenv(), inherits = FALSE)) seed()

  max_rows_html <- 60L
  max_columns_html <- 20L
  max_cells_data <- 200000L
  max_frames <- 40L
  run <- new.env()          # the run under way: id, count, file (its source), calls (of its last error), is_main (of its next plot)
  run$count <- run$asked <- 0L
  pid <- Sys.getpid()
  plot_dir <- tempfile("plots-")
  copy_dir <- tempfile("copies-")
  dir.create(plot_dir)
  dir.create(copy_dir)

  `%||%` <- function(value, other) if (is.null(value)) other else value      # R has it since 4.4

  clean <- function(text) {
    text <- enc2utf8(text)
    if (all(validUTF8(text))) text else iconv(text, "UTF-8", "UTF-8", sub = "byte")
  }

  # Text reaches the agent on other ways than messages. Code that goes on after a message therefore waits until it was taken.
  send <- function(message, waits = FALSE) {
    message$id <- run$id
    if (waits) message$ack <- run$asked <- run$asked + 1L
    message <- rapply(message, clean, classes = "character", how = "replace")
    text <- jsonlite::toJSON(message, auto_unbox = TRUE, null = "null", na = "null", digits = NA, json_verbatim = TRUE)
    .Call(native$write, text, if (waits) sprintf('{"op": "ack", "ack": %d}', run$asked))
    NULL
  }

  # ---- plots: a device that writes one file a page. A page is sent when it is complete (the next one begins, the device is closed, the cell
  # ends), and before text that follows it. Of a page that was sent and then drawn on, the final one is sent, too. When later code of
  # the cell adds to a plot (lines, legend, …) before it begins another one, the page waits for that.

  open_device <- function(...) {
    option <- function(name, default) getOption(paste0("repr.plot.", name), default)
    run$open <- function(file) {
      grDevices::png(file, type = "cairo", units = "in", width = option("width", 7), height = option("height", 7), res = option("res", 120))
    }
    run$devices <- run$devices + 1L
    run$open(file.path(plot_dir, sprintf("%d-%d-%%05d.png", run$count, run$devices)))
    grDevices::dev.control("enable")
    .Call(native$watch, on_page)
    run$device <- grDevices::dev.cur()
  }

  is_open <- function() {
    !is.null(run$device) && run$device %in% grDevices::dev.list() && identical(names(run$device), names(grDevices::dev.list())[match(run$device, grDevices::dev.list())])
  }

  close_device <- function() {
    if (is_open()) grDevices::dev.off(run$device)
    run$device <- NULL
  }

  # The native part calls this, also during printing: it must not format numbers, whose settings R keeps in one place.
  on_page <- function(event) suppressWarnings({
    if (event == "text") {
      if (!is_being_drawn()) send_copy()
    } else {
      files <- list.files(plot_dir, full.names = TRUE)
      for (file in files[file.size(files) > 0]) {     # that of the page that begins is empty
        if (event == "page") send_image(file, run$is_main)
        unlink(file)
      }
    }
  })

  send_image <- function(file, main) {
    send(list(op = "result", main = main, data = list(`image/png` = jsonlite::base64_enc(readBin(file, "raw", file.size(file)))), extra = empty), !main)
  }

  drawers <- c("graphics", "grid", "lattice", "ggplot2", "gridExtra", "cowplot", "patchwork")

  # Whether a drawing function is running, or the page has space for another figure (mfrow, layout).
  is_being_drawn <- function() {
    for (i in seq_len(sys.nframe())) if (environmentName(topenv(environment(sys.function(i)) %||% baseenv())) %in% drawers) return(TRUE)
    old <- grDevices::dev.cur()
    on.exit(grDevices::dev.set(old))
    if (!is_open()) return(TRUE)
    grDevices::dev.set(run$device)
    !graphics::par("page")
  }

  send_copy <- function() {
    old <- grDevices::dev.cur()
    on.exit(grDevices::dev.set(old))
    .Call(native$hold, NULL)
    file <- file.path(copy_dir, "page.png")
    grDevices::dev.set(run$device)
    grDevices::dev.copy(run$open, file)
    grDevices::dev.off()
    if (file.exists(file)) {
      send_image(file, FALSE)
      unlink(file)
    }
  }

  adding <- c("lines", "points", "abline", "text", "legend", "axis", "title", "mtext", "polygon", "segments", "arrows", "rect", "grid", "box", "symbols",
              "matlines", "matpoints", "rug", "qqline", "rasterImage")
  beginning <- c("plot", "hist", "barplot", "boxplot", "pie", "curve", "pairs", "coplot", "matplot", "image", "contour", "persp", "dotchart", "stripchart",
                 "mosaicplot", "qqnorm", "plot.new", "frame", "ggplot", "dev.off", "heatmap", "xyplot")

  # For each expression: whether those after it add to a plot before they begin one.
  adds_later <- function(exprs) {
    answer <- logical(length(exprs))
    for (i in rev(seq_along(exprs)[-1L])) {
      used <- all.names(exprs[[i]])
      used <- used[!used %in% all.vars(exprs[[i]])]
      first <- used[used %in% adding | used %in% beginning][1L]
      answer[i - 1L] <- if (is.na(first)) answer[i] else first %in% adding
    }
    answer
  }

  empty <- structure(list(), names = character())

  # ---- values: R's own text, and for data frames a table and the columns

  shows_a_plot <- function(value) inherits(value, c("ggplot", "trellis", "recordedplot", "patchwork", "gtable"))

  as_text <- function(value) {
    paste(utils::capture.output(if (isS4(value)) methods::show(value) else print(value)), collapse = "\n")
  }

  as_column <- function(column) {
    if (inherits(column, "POSIXt")) sub("([0-9]{2})$", ":\\1", format(column, "%Y-%m-%dT%H:%M:%OS3%z"))
    else if (is.factor(column) || inherits(column, "integer64")) as.character(column)
    else if (is.logical(column) || is.character(column) || is.numeric(column) && !is.object(column)) as.vector(column)
    else if (is.list(column) && !is.object(column)) vapply(column, function(value) paste(format(value), collapse = ", "), "")
    else ifelse(is.na(column), NA_character_, trimws(format(column)))
  }

  # The printed columns: a matrix or a data frame in a column gives several.
  columns_of <- function(frame) {
    columns <- list()
    for (i in seq_along(frame)) {
      column <- frame[[i]]
      name <- names(frame)[i]
      if (length(dim(column)) == 2L) {
        inner <- if (is.data.frame(column)) columns_of(column) else lapply(seq_len(ncol(column)), function(k) column[, k])
        labels <- if (is.data.frame(column)) names(inner) else colnames(column) %||% as.character(seq_along(inner))
        names(inner) <- if (length(inner) > 1L) paste(name, labels, sep = ".") else name
        columns <- c(columns, inner)
      } else {
        columns <- c(columns, structure(list(column), names = name))
      }
    }
    columns
  }

  # The columns as JSON, with all digits of numbers, under unique names.
  as_data <- function(columns) {
    texts <- lapply(columns, function(column) {
      if (inherits(column, "integer64")) values <- ifelse(is.na(column), "null", as.character(column))
      else if (is.double(column <- as_column(column))) values <- .Call(native$numbers, column)
      else return(I(if (is.character(column)) clean(column) else column))
      structure(paste0("[", paste(values, collapse = ","), "]"), class = "json")
    })
    structure(texts, names = make.unique(names(columns)))
  }

  escape <- function(text) gsub(">", "&gt;", gsub("<", "&lt;", gsub("&", "&amp;", text, fixed = TRUE), fixed = TRUE), fixed = TRUE)

  as_table <- function(columns, rows) {
    shown <- columns[seq_len(min(length(columns), max_columns_html))]
    count <- min(length(rows), max_rows_html)
    cells <- vapply(shown, function(column) escape(clean(as.character(as_column(utils::head(column, count))))), character(count))
    cells <- matrix(cells, nrow = count)
    cells[is.na(cells)] <- "NA"
    row <- function(names, values) paste0("<tr><th>", names, "</th>", values, "</tr>")
    head <- row("", paste0("<th>", escape(clean(names(shown))), "</th>", collapse = ""))
    body <- row(escape(clean(rows[seq_len(count)])), apply(cells, 1, function(line) paste0("<td>", line, "</td>", collapse = "")))
    more <- if (count < length(rows) || length(shown) < length(columns)) sprintf("<p>%d rows, %d columns</p>", length(rows), length(columns)) else ""
    paste0("<table>\n<thead>", head, "</thead>\n<tbody>\n", if (count) paste0(body, collapse = "\n"), "\n</tbody>\n</table>", more)
  }

  as_bundle <- function(value) {
    bundle <- list(`text/plain` = as_text(value))
    if (is.data.frame(value) && length(value) > 0) suppressWarnings({
      columns <- columns_of(value)
      bundle$`text/html` <- as_table(columns, row.names(value))
      if (nrow(value) * length(columns) <= max_cells_data) bundle$`application/vnd.e2b.data` <- as_data(columns)
    })
    if (inherits(value, "json")) bundle$`application/json` <- jsonlite::fromJSON(value, simplifyVector = FALSE)
    if (inherits(value, "html") && is.character(value)) bundle$`text/html` <- paste(value, collapse = "\n")
    bundle
  }

  show_value <- function(value, is_last) {
    if (shows_a_plot(value)) {
      close_device()
      run$is_main <- is_last
      print(value)
      close_device()
      run$is_main <- FALSE
    } else {
      bundle <- as_bundle(value)
      .Call(native$flush)
      if (nzchar(bundle$`text/plain`)) send(list(op = "result", main = is_last, data = bundle, extra = empty), !is_last)
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

  # One line a frame, outermost first, without frames of packages, which have no source here.
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

  # For a condition whose message fails.
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
    code <- gsub("\r\n", "\n", code, fixed = TRUE)
    source <- srcfilecopy(run$file, strsplit(code, "\n", fixed = TRUE)[[1L]], isFile = FALSE)
    exprs <- tryCatch(parse(text = code, srcfile = source, keep.source = TRUE), error = identity)
    if (inherits(exprs, "error")) return(send_parse_error(exprs))
    refs <- attr(exprs, "srcref")
    holds <- adds_later(exprs)
    for (i in seq_along(exprs)) {
      run$at <- refs[[i]][1L]
      .Call(native$hold, holds[i])
      out <- user_eval(exprs[[i]])
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
    run$is_main <- FALSE
    withRestarts(tryCatch(
      withCallingHandlers(
        with_envs(message$envs, evaluate(message$code)),
        error = function(e) run$calls <- sys.calls(),
        warning = on_warning),
      error = function(e) tryCatch(send_error(e), error = send_plainly),
      interrupt = function(i) send(list(op = "error", name = "KeyboardInterrupt", value = "", traceback = paste0("Interrupted\n  line ", run$at)))),
      cloister_end_cell = function(status) {
        if (status != 0L) send(list(op = "error", name = "SystemExit", value = as.character(status), traceback = paste("SystemExit:", status)))
      })
    run$is_main <- FALSE
    .Call(native$hold, TRUE)
    suspendInterrupts(close_device())
    send(list(op = "done", count = run$count))
  }

  # ---- quit() ends the cell and not the kernel, but in a forked process

  quit <- function(save = "default", status = 0, runLast = TRUE) {
    if (Sys.getpid() != pid) .Internal(quit("no", status, FALSE))
    invokeRestart("cloister_end_cell", as.integer(status))
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

  for (name in c("system", "system2", "quit", "q")) {
    f <- get(name, baseenv())
    if (name %in% c("quit", "q")) f <- quit
    else body(f) <- with_command(body(f))
    unlockBinding(name, baseenv())
    assign(name, f, baseenv())
    lockBinding(name, baseenv())
  }

  options(keep.source = TRUE, device = open_device, menu.graphics = FALSE, browserNLdisabled = TRUE)
  suspendInterrupts({
    .Call(native$write, '{"op":"ready"}', NULL)
    loadNamespace("jsonlite")     # while the agent takes the news
    while (!is.null(line <- .Call(native$read))) {
      message <- jsonlite::fromJSON(line, simplifyVector = FALSE)
      if (identical(message$op, "execute")) execute(message)
      else if (identical(message$op, "renew")) seed()
    }
  })
})
