# === row and column work
m <- matrix(1:6, 2, dimnames = list(c("a", "b"), c("x", "y", "z")))
rowSums(m); colMeans(m); sweep(m, 2, colMeans(m)); scale(m)[, 1]; m["a", "y"]; rbind(m, total = colSums(m)); cbind(m, s = rowSums(m))
upper.tri(diag(2)); which(m > 3, arr.ind = TRUE); max.col(m); order(c(3, 1, 2), decreasing = TRUE)
# === data frame building
df <- data.frame(name = c("Al", "Bo"), age = c(30L, 25L), stringsAsFactors = FALSE)
df$senior <- df$age > 28; df[["id"]] <- seq_len(nrow(df)); df
df[nrow(df) + 1, ] <- list("Cy", 40L, TRUE, 3L); df
names(df)[1] <- "who"; df$age <- NULL; df; sapply(df, class); lapply(df, class)$who; dim(df)
# === grouping
agg <- aggregate(cbind(mpg, hp) ~ cyl + am, mtcars, mean); agg
do.call(rbind, lapply(split(mtcars, mtcars$gear), function(d) data.frame(gear = d$gear[1], n = nrow(d))))
ave(c(1, 2, 3), c("a", "a", "b")); cumprod(1:5); table(cut(mtcars$mpg, 3)); tapply(mtcars$mpg, list(mtcars$cyl, mtcars$am), median)
# === missing values
x <- c(1, NA, 3); mean(x); mean(x, na.rm = TRUE); is.na(x); complete.cases(data.frame(x)); na.omit(x); ifelse(is.na(x), 0, x); sum(is.na(airquality))
df <- data.frame(a = c(1, NA), b = c(NA, "x")); df; colSums(is.na(df)); df[is.na(df)] <- 0; df
# === apply with several results
sapply(1:3, function(i) c(i, i^2)); t(sapply(c("a", "bb"), nchar)); sapply(list(), length); array(1:8, c(2, 2, 2))[, , 1]; mapply(rep, 1:3, 3:1)
# === string formatting of tables
df <- data.frame(item = c("apple", "fig"), price = c(1.5, 10)); cat(sprintf("%-10s %6.2f\n", df$item, df$price), sep = "")
format(df); print(df, row.names = FALSE); print(format(Sys.Date(), "%Y") > "2000"); format(c(1.123456, 10), nsmall = 2); format(-1.5); format(NA); format(1e-10); signif(123456, 2); round(-2.5); round(0.5 + 1:3)
# === regular expressions
x <- "Order 66 of 2024"; as.integer(regmatches(x, gregexpr("[0-9]+", x))[[1]]); sub("(\\w+) (\\d+)", "\\2 \\1", x); gsub("\\s+", "-", x); grepl("^Order", x); regexpr("of", x)[1]; sprintf("%s", sub("o", "0", "foo", fixed = TRUE)); gsub("(a)(b)?", "[\\1]", "abaa", perl = TRUE); toupper(gsub("(^|\\s)(\\w)", "\\1\\U\\2", "a bc", perl = TRUE)); strsplit("a1b22", "[0-9]+"); utf8ToInt("A"); intToUtf8(c(72, 105)); sprintf("%5s|%-5s|", "é", "é"); rawToChar(charToRaw("hi")); shQuote("a b"); nchar("é", "bytes"); make.names("a b"); make.unique(c("a", "a")); abbreviate("international"); sprintf("%+d", 5L); sprintf("%o", 8L); sprintf("%X", 255L); sprintf("%5.1f%%", 45.678); month.name[1:2]; LETTERS[5]
# === dates in frames
df <- data.frame(d = as.Date(c("2024-03-01", "2023-12-31")), v = 1:2); df[order(df$d), ]; format(df$d, "%b %d, %Y"); df$d[1] - df$d[2]; as.integer(format(df$d, "%j")); cut(df$d, "month"); seq(df$d[2], df$d[1], by = "month"); range(df$d); julian(df$d[1]); as.Date(45000); as.numeric(as.POSIXct("2024-01-01", tz = "UTC")); summary(df); str(df); rev(df$d); is.numeric(df$d); months(df$d[1], abbreviate = TRUE); difftime(as.POSIXct("2024-01-02", tz = "UTC"), as.POSIXct("2024-01-01", tz = "UTC")); date_str <- strftime(as.POSIXct(0, tz = "UTC"), "%Y-%m-%d %H:%M:%S"); date_str; OlsonNames()[1]; unclass(as.POSIXlt("2024-02-29", tz = "UTC"))$yday
# === switch on type
kind <- function(x) switch(class(x)[1], numeric = "number", character = "text", list = "list", data.frame = "frame", "other")
sapply(list(1, "a", list(), data.frame(), TRUE, NULL), kind); typeof(1L); mode(sum); class(sum); class(matrix(1)); inherits(1, "numeric"); is.function(print); storage.mode(1L); object.size(1:10) > 0; is.null(NULL); identical(c(a = 1), c(a = 1)); all.equal(1, 1 + 1e-10); isTRUE(all.equal(1, 2)); all.equal(1, 1.1)
# === variable arguments
f <- function(...) { a <- list(...); cat(length(a), names(a), "\n"); ..1 }; f(x = 5, 6); g <- function(first, ...) sum(first, ...); g(1, 2, 3); h <- function(n = stop("needed")) 1; h(); nargs_f <- function(...) nargs(); nargs_f(1, 2); k <- function(x) missing(x); k(); do.call(paste, list("a", "b", sep = "-")); f2 <- function(a, b = a * 2) { a <- 10; b }; f2(1); invisible(f2(1)); (function(x) x * 2)(4); Reduce(function(a, b) paste0(b, a), strsplit("abc", "")[[1]]); args <- commandArgs(trailingOnly = TRUE); length(args)
# === memoise and environments
memo <- new.env(); fibm <- function(n) { key <- as.character(n); if (!is.null(memo[[key]])) return(memo[[key]]); r <- if (n < 2) n else fibm(n - 1) + fibm(n - 2); memo[[key]] <- r; r }; fibm(50); length(ls(memo)); e <- as.environment(list(a = 1)); mget(c("a"), envir = e); eapply(e, function(v) v + 1); local({ y <- 5; y }); exists("y"); f <- function() { x <- 1; h <- function() parent.frame(); identical(h(), environment()) }; f(); environmentName(environment(sd)); rm(memo); exists("memo")
# === bank account of closures
account <- function(balance = 0) list(deposit = function(x) { balance <<- balance + x; invisible(balance) }, balance = function() balance)
a <- account(100); a$deposit(50); a$balance(); b <- account(); b$balance(); print(a$deposit(1))
# === inheritance in S4
setClass("Shape", representation("VIRTUAL", name = "character")); setClass("Circle", contains = "Shape", representation(r = "numeric"))
setGeneric("area", function(s, ...) standardGeneric("area")); setMethod("area", "Circle", function(s, ...) pi * s@r^2)
c1 <- new("Circle", name = "c", r = 2); area(c1); is(c1, "Shape"); is(c1); isVirtualClass("Shape"); existsMethod("area", "Circle"); slotNames("Circle"); tryCatch(new("Shape"), error = function(e) cat("virtual\n"))
setMethod("+", signature("Circle", "Circle"), function(e1, e2) new("Circle", name = "sum", r = e1@r + e2@r)); (c1 + c1)@r; setMethod("length", "Circle", function(x) 7L); length(c1); c1@r <- 5; c1@r; initialize(c1, r = 1)@r; identical(c1, c1); showMethods("area")
# === inheritance of reference classes
Person <- setRefClass("Person", fields = list(name = "character"), methods = list(hello = function() cat("I am", name, "\n"), initialize = function(...) { initFields(...); if (length(name) == 0) name <<- "nobody"; .self }))
Student <- setRefClass("Student", contains = "Person", fields = list(school = "character"), methods = list(hello = function() { callSuper(); cat("at", school, "\n") }))
s <- Student$new(name = "Al", school = "MIT"); s$hello(); t <- s$copy(); t$name <- "Bo"; s$name; Person$new()$name; is(s, "Person"); s
# === group generics in S3
Ops.temp <- function(e1, e2) { v <- get(.Generic)(unclass(e1), unclass(e2)); if (.Generic %in% c("+", "-")) structure(v, class = "temp") else v }
print.temp <- function(x, ...) cat(unclass(x), "degrees\n"); a <- structure(20, class = "temp"); a + a; a > structure(10, class = "temp"); format.temp <- function(x, ...) paste0(unclass(x), "C"); format(a); as.character.temp <- function(x, ...) "T"; as.character(a); "[.myvec" <- function(x, i) structure(unclass(x)[i], class = "myvec"); x <- structure(1:5, class = "myvec"); length(x[2:3]); print(unclass(x[2:3])); "$.rec" <- function(x, name) paste("field", name); r <- structure(list(), class = "rec"); r$anything; "[[<-.lst" <- function(x, i, value) { y <- unclass(x); y[[i]] <- value * 2; structure(y, class = "lst") }; l <- structure(list(), class = "lst"); l[["a"]] <- 4; unclass(l)$a; seq_along(c("x", "y")); rev.default(1:2); unique(structure(c(1, 1), class = "q")); toString(structure(1:2, class = "z"))
# === warnings become errors
options(warn = 2)
r <- try(as.integer("x"), silent = TRUE); cat(class(r), "\n"); options(warn = 0)
op <- options(digits = 3); pi; options(op); pi; suppressWarnings({ warning("hidden"); 5 }); suppressMessages({ message("hidden"); 6 })
# === nested handlers
out <- tryCatch({ tryCatch(stop("inner"), error = function(e) stop("outer from inner")) }, error = function(e) conditionMessage(e), finally = cat("done\n")); out
withCallingHandlers(tryCatch({ message("note"); 10 }, error = function(e) -1), message = function(m) { cat("got:", conditionMessage(m)); invokeRestart("muffleMessage") })
f <- function() { warning("careful"); "finished" }; withCallingHandlers(f(), warning = function(w) { cat("W:", conditionMessage(w), "\n"); tryInvokeRestart("muffleWarning") })
with_restart <- withRestarts(invokeRestart("mine", 5), mine = function(x) x * 2); with_restart; tryCatch({ warning("first"); cat("not reached\n") }, warning = function(w) "stopped at the first"); e <- simpleError("custom msg"); tryCatch(stop(e), error = function(err) identical(err, e)); inherits(try(stop("x"), silent = TRUE), "try-error"); geterrmessage(); stop_custom <- function(.subclass, message) stop(structure(class = c(.subclass, "error", "condition"), list(message = message, call = sys.call(-1)))); tryCatch(stop_custom("http_error", "404"), http_error = function(e) paste("http", conditionMessage(e))); warningCondition("w", class = "cw") |> class(); errorCondition("e", data = 1)$data; tryCatch(signalCondition(simpleCondition("s")), condition = function(c) "signalled"); rlang_abort <- function() stop("a\nb"); try(rlang_abort(), silent = TRUE) |> cat()
# === error in the last of several lines
a <- 1
b <- 2
if (a < b) {
  log("text")
}
# === error inside sapply
sapply(1:3, function(i) if (i == 2) stop("at two") else i)
# === error in print
print(undefined_variable)
# === error in a method
show_it <- function(x) UseMethod("show_it")
show_it(5)
# === error in a pipe
c(1, "a") |> as.numeric() |> sum()
sum("a")
# === stopifnot fails
f <- function(x) { stopifnot(is.numeric(x), x > 0); sqrt(x) }
f(4)
f(-1)
# === match.arg fails
f <- function(type = c("one", "two")) { type <- match.arg(type); type }
f(); f("two")
f("three")
# === a package that is not there
library(notapackage)
# === require gives false
suppressWarnings(require(notapackage)); requireNamespace("stats", quietly = TRUE)
# === infinite recursion
f <- function(n) f(n + 1)
r <- tryCatch(f(1), error = function(e) "too deep"); r
# === integer overflow and precision
2147483647L + 1L; 5 %/% 0; -1/0; 0L %/% 0L; sqrt(2) * sqrt(2) == 2; isTRUE(all.equal(sqrt(2)^2, 2)); .1 + .2 == .3; 2^53 + 1; 1e308 * 10; bitwXor(5L, 1L); 7.0; 1L:3L / 2L; as.integer(3.9); trunc(-1.5); ceiling(1.2); 10 %% 3.3; factorial(20); choose(5, 2); gamma(5); beta(2, 3); exp(1); log(100, 10); log2(8); log1p(0)
print(1/3, digits = 16); print(0.1, digits = 17); print(123456789.123, digits = 12); 100 * 1.1; 1e5 + 0.1; 33.333333333; c(1e-10, 1); c(1.5, NA, 1000000); 1e-300; 123456.7; TRUE + TRUE
# === sampling and distributions
set.seed(10); round(rnorm(5, 10, 2), 3); sample(5); rbinom(5, 1, 0.5); round(runif(2, 1, 5), 4); sample(letters, 3); dnorm(0); pnorm(1.96); qnorm(0.975); dbinom(2, 5, 0.5); punif(0.3); round(rgamma(2, 2), 3); set.seed(10); x <- rnorm(100); round(c(mean(x), sd(x), var(x), median(x)), 4); round(quantile(x, c(.1, .9)), 3); summary(x); cor(x, x^2) |> round(4); sample(c(TRUE, FALSE), 4, replace = TRUE, prob = c(.9, .1)); set.seed(3); matrix(round(rnorm(4), 2), 2); rmultinom(1, 3, c(.2, .8)); round(arima.sim(list(ar = 0.5), 3), 2)
# === polynomial regression and factors
fit <- lm(mpg ~ poly(wt, 2) + factor(cyl), mtcars); round(coef(fit), 4); round(summary(fit)$r.squared, 5); class(fit); nobs(fit); AIC(fit) |> round(3); formula(fit); drop1(fit); model.matrix(~ factor(c("a", "b"))); vcov(lm(mpg ~ wt, mtcars)); plogis(0); residuals(lm(dist ~ speed, cars))[1:2]
# === stepwise and poisson
g <- glm(count ~ spray, InsectSprays, family = poisson); g; anova(g, test = "Chisq"); s <- step(lm(mpg ~ wt + qsec, mtcars), trace = 0); s; logLik(s)
loess(dist ~ speed, cars); predict(smooth.spline(cars$speed, cars$dist), 10)$y |> round(2); cor(mtcars[, 1:3]); var(1:10); mad(c(1, 2, 9)); weighted.mean(c(1, 2), c(3, 1)); ks.test(c(.1, .4, .7), "punif"); binom.test(7, 10); prop.test(c(15, 25), c(50, 50)); fisher.test(matrix(c(3, 1, 1, 3), 2)); kruskal.test(weight ~ group, PlantGrowth); bartlett.test(weight ~ group, PlantGrowth); power.t.test(n = 20, delta = 1); mantelhaen.test(UCBAdmissions); pairwise.t.test(PlantGrowth$weight, PlantGrowth$group); var.test(1:5, c(1, 9, 3)); friedman.test(matrix(c(1, 2, 3, 2, 3, 1, 3, 1, 2), 3))
# === clustering and matrices
hc <- hclust(dist(matrix(c(1, 2, 10, 11), 4)), "average"); cutree(hc, 2); hc$merge; dist(matrix(1:4, 2)); set.seed(1); kmeans(matrix(c(1, 1.1, 5, 5.1), 4), 2)$size; chol(matrix(c(4, 2, 2, 3), 2)); kronecker(diag(2), matrix(1, 1, 2)); matrix(1:4, 2) %o% 1:2; solve(matrix(c(2, 0, 0, 2), 2), c(1, 2)); crossprod(1:3); rowsum(c(1, 2, 3), c("a", "b", "a")); aperm(array(1:6, c(1, 2, 3)))[, , 1]; determinant(diag(2)); norm(matrix(1:4, 2)); backsolve(matrix(c(1, 0, 2, 1), 2), c(3, 1)); cmdscale(dist(matrix(c(1, 2, 4), 3))) |> abs() |> round(3); fft(1:4); convolve(1:3, c(0, 1), type = "o"); mahalanobis(c(1, 1), c(0, 0), diag(2))
# === output of several kinds in one loop
for (i in 1:3) { cat("cat", i, "\n"); print(i); message("msg ", i) }
for (x in list(1, "a", TRUE)) print(x)
for (i in seq(2, 6, 2)) cat(i, ""); cat("\n"); i
while (i > 0) { i <- i - 4; cat("i is", i, "\n") }
# === values between output
cat("one\n")
1 + 1
cat("two\n")
"x"
cat("three\n")
invisible("never")
print("four")
data.frame(a = 1)
cat("five\n")
# === values in blocks
{ 1; 2 }
if (TRUE) "shown"
(invisible(3))
x <- y <- 2
x
f <- function() { print("in"); "out" }
f()
v <- f()
repeat { "not shown"; break }
function(x) x
switch("a", a = invisible(1))
assign("q", 1)
NULL
for (i in 1) i
# === text without newlines
cat("a"); cat("b"); 1
cat("c")
# === writing to connections
cat("to stdout\n", file = stdout()); write(1:3, stdout()); write("text", ""); writeLines("line"); writeLines("line2", stdout()); cat("to stderr\n", file = stderr()); print(1:3); format(1:3) |> cat("\n"); cat("tab\tsep\n"); cat(c(1, 2), c("a"), sep = ", "); cat("\n"); cat("a\n", "b\n"); cat("x", "\n", sep = ""); cat(NULL); cat(character(0)); cat(list(1, "a"), "\n"); cat(3.0, 1e-8, 1e6, 123456789, "\n"); cat(pi, exp(10), "\n"); cat(TRUE, 1L, 2i, "\n"); cat("multi", "line\n", "text\n"); dput(c(a = 1)); dput("q\"uote"); dump("letters", stdout()); str(list(1, b = "x", c(1, 2))); str(1:5); str("a"); str(mtcars[1:2]); str(function(x) x, give.attr = FALSE); print(list()); invisible(print("once")); message("a", "b", 3)
# === files of data
dir.create("sub"); write.table(data.frame(x = 1:2, y = c("a", "b")), "sub/t.tsv", sep = "\t", quote = FALSE); read.delim("sub/t.tsv"); list.files("sub"); file.info("sub/t.tsv")$isdir; readLines("sub/t.tsv", n = 1); x <- read.csv(text = "d,v\n2024-01-01,1.5\n2024-01-02,NA"); x; str(x); sapply(x, class); cat(readLines(textConnection("l1\nl2")), sep = "\n"); save(x, file = "x.rda"); rm(x); load("x.rda"); x$v; unlink("sub", recursive = TRUE); dir.exists("sub"); sink("log.txt"); print("logged"); sink(); readLines("log.txt"); con <- file("bin", "wb"); writeBin(1:3, con); close(con); readBin("bin", "integer", 3); file.size("bin"); normalizePath(".") == getwd(); nchar(tempfile()) > 5; file.copy("bin", "bin2"); file.rename("bin2", "bin3"); basename(getwd()) != ""; gz <- gzfile("z.gz", "w"); writeLines("zipped", gz); close(gz); readLines("z.gz"); tryCatch(readLines("nope"), error = function(e) cat("no file\n"), warning = function(w) cat("warned\n")); read.fwf(textConnection("12ab"), c(2, 2)); count.fields(textConnection("a b c")); scan(text = "3 4", quiet = TRUE); noquote(sprintf("%d lines", length(readLines("log.txt"))))
# === parsing and code as data
e <- quote(f(x, y = 2)); e[[1]]; as.list(e); e$y; class(e); eval(quote(1 + 2)); f <- function(x) substitute(x); f(a + b); deparse(f(a * 2)); body(function(x) x^2); bquote(a + .(1 + 2)); call("sum", 1, 2); eval(call("sum", 1, 2)); match.call(sum, quote(sum(1, 2))); expression(a * b)[[1]]; all.vars(quote(x + y * z)); identical(quote(a), as.name("a")); parse(text = "x <- 1; y")[[2]]; is.call(e); Reduce(function(a, b) call("+", a, b), list(1, 2, 3)); D(expression(x^2), "x"); deriv(~ x^2, "x"); trace_me <- function() sys.call(); trace_me(); do.call("trace_me", list()); formals(function(a, b = 2) 1)$b; as.function(alist(x = , x + 1))(2); sys.function |> class(); (function() match.call())(); Recall |> is.function(); nchar(paste(deparse(lm), collapse = "")) > 100; as.formula("y ~ x"); update(y ~ x, . ~ . + z); terms(y ~ a * b) |> attr("term.labels")
# === bit of everything that models write
scores <- list(math = c(90, 85), art = c(70, 95))
for (s in names(scores)) cat(sprintf("%s: mean = %.1f, max = %d\n", s, mean(scores[[s]]), max(scores[[s]])))
results <- data.frame(subject = names(scores), avg = sapply(scores, mean), row.names = NULL)
results
results[which.max(results$avg), "subject"]
cat("Best:", results$subject[which.max(results$avg)], "\n")
stopifnot(nrow(results) == 2)
invisible(Map(function(n, v) cat(n, "=", v, "\n"), results$subject, results$avg))
cat(rep("-", 10), "\n", sep = ""); cat(paste("Line", 1:2, collapse = "\n"), "\n"); print(paste("Total:", sum(unlist(scores)))); cat("Mean:", round(mean(unlist(scores)), 2), "\n")
# === text processing
txt <- "the quick brown fox jumps over the lazy dog the end"; w <- strsplit(txt, " ")[[1]]; freq <- sort(table(w), decreasing = TRUE); head(freq, 3); names(freq)[1]; as.data.frame(freq, stringsAsFactors = FALSE)[1:2, ]; vapply(w[1:3], function(x) paste(rev(strsplit(x, "")[[1]]), collapse = ""), "", USE.NAMES = FALSE); sum(nchar(w)); tapply(nchar(w), nchar(w), length); unlist(lapply(c("level", "abc"), function(s) s == paste(rev(strsplit(s, "")[[1]]), collapse = ""))); sprintf("%s...", substr(txt, 1, 9)); strwrap(txt, 20); formatC(w[1:2], width = 8, flag = "-"); cat(strwrap(txt, 25, prefix = "> "), sep = "\n"); chartr("aeiou", "AEIOU", "vowels in here"); rev(utf8ToInt("abc")); outer(c("a", "b"), 1:2, paste0); do.call(paste0, as.list(letters[1:3])); mapply(function(a, b) sprintf("%s-%s", a, b), c("x", "y"), c("1", "2")); sprintf("Name: %s, Age: %d", c("A", "B"), c(1L, 2L)); toupper(substr("word", 1, 1)); casefold("X"); sprintf("%s", NA); paste(NULL); paste(c("a", NA)); paste0("a", character(0)); nchar(c("one", NA, "")); is.na(NA_character_); rev(NULL); max(c("apple", "banana")); sort(c("b", "A", "a", "B")); order(c("b", "a")); tolower("ÀÉ"); trimws("..x..", whitespace = "[.]"); startsWith("hello", "he"); endsWith("hello", "lo"); sprintf("%3d.", 1:3); rawToChar(rev(charToRaw("abc"))); format("left", width = 10); format("right", width = 10, justify = "right"); sprintf("%08.2f", 3.14159); format(123.456, nsmall = 1); format(TRUE, width = 6); format(c(0.001, 0.1), scientific = TRUE); format(1e6, big.mark = ",", scientific = FALSE); format(Sys.time(), "%Y") >= "2024"; encodeString("a\nb"); dQuote("a", FALSE); sQuote("a", FALSE); noquote("x"); strtoi("101", base = 2); rev(1:0); rapply(list("a", 1), nchar, classes = "character", how = "unlist")
# === queue simulation
set.seed(7); q <- c(); for (t in 1:5) { if (runif(1) < .6) q <- c(q, t); if (length(q) && runif(1) < .5) q <- q[-1]; cat("t =", t, "queue:", if (length(q)) q else "empty", "\n") }
length(q)
# === matrix printing with names and types
matrix(c(TRUE, FALSE, NA, TRUE), 2); matrix(c(1.5, NA, -3, 1000), 2); matrix(list(1, "a", TRUE, NULL), 2); matrix(character(0), 0, 2); matrix(1:4, 2, byrow = TRUE, dimnames = list(NULL, c("a", "b"))); table(a = c(1, 1, 2), b = c("x", "y", "x")); ftable(Titanic, row.vars = 1:2)[1:2, ]; matrix(1i, 1); array(1:4, 4); as.table(matrix(1:2, 1)); summary(table(c(1, 2), c(1, 2))); addmargins(table(c(1, 1, 2), c(1, 2, 2))); noquote(matrix(letters[1:4], 2)); matrix(1:60, 2)
# === lists of lists
people <- list(list(name = "Al", langs = c("R", "C")), list(name = "Bo", langs = "Py")); sapply(people, `[[`, "name"); people[[1]]$langs[2]; Filter(function(p) "R" %in% p$langs, people)[[1]]$name; do.call(rbind, lapply(people, function(p) data.frame(name = p$name, n = length(p$langs)))); unlist(people); stack(setNames(lapply(people, `[[`, "langs"), c("Al", "Bo"))); people[[3]] <- list(name = "Cy"); length(people); people[[3]]$langs; is.null(people[[3]]$langs); rapply(people, toupper, how = "unlist")[1:2]; str(people, max.level = 1); list(a = 1, b = list(c = 2, d = list(e = 3))); list(f = function(x) x + 1)$f(2); setdiff(names(list(a = 1, b = 2)), "a"); rev(list(1, "b")); list(1, NULL, list()); modifyList(list(a = 1), list(a = NULL)); utils::head(list(1, 2, 3), 2); append(1:3, 99, after = 1); vector("list", 2); array(list(), 0); relist(unlist(list(a = 1, b = 2)), list(a = 0, b = 0)); mapply(identity, c(a = 1)); Recall; nlevels(factor(c("a", "b")))
# === timing is invisible enough
t <- system.time(for (i in 1:10) i); class(t); t[["elapsed"]] >= 0; invisible(Sys.sleep(0.01)); is.numeric(proc.time()[1]); inherits(Sys.time(), "POSIXct"); nchar(date()) > 10; class(Sys.Date()); R.version$language; is.character(R.version.string); .Platform$file.sep; nzchar(Sys.info()[["sysname"]]); exists("T"); is.environment(globalenv()); interactive(); length(search()) > 5; "package:stats" %in% search(); capabilities("png"); nchar(getwd()) > 0; Sys.getenv("NOPE", "default"); file.exists("/etc/passwd"); class(sessionInfo()); is.list(options()); getOption("nope", 5); nlevels(iris$Species); dim(iris); head(letters, -23); tail(1:10, 3)
# === sorting algorithms
quick <- function(x) if (length(x) <= 1) x else { p <- x[1]; r <- x[-1]; c(quick(r[r < p]), p, quick(r[r >= p])) }
quick(c(3, 6, 1, 8, 2)); merge_sort <- function(x) { if (length(x) < 2) return(x); m <- length(x) %/% 2; a <- merge_sort(x[1:m]); b <- merge_sort(x[(m + 1):length(x)]); r <- numeric(0); while (length(a) && length(b)) if (a[1] <= b[1]) { r <- c(r, a[1]); a <- a[-1] } else { r <- c(r, b[1]); b <- b[-1] }; c(r, a, b) }; merge_sort(c(5, 2, 4)); binary <- function(x, k) { lo <- 1; hi <- length(x); while (lo <= hi) { mid <- (lo + hi) %/% 2; if (x[mid] == k) return(mid); if (x[mid] < k) lo <- mid + 1 else hi <- mid - 1 }; -1 }; binary(c(1, 3, 5, 7), 5); binary(1:3, 9); collatz <- function(n) { s <- n; while (n != 1) { n <- if (n %% 2) 3 * n + 1 else n / 2; s <- c(s, n) }; s }; collatz(6); pascal <- lapply(0:4, function(n) choose(n, 0:n)); for (r in pascal) cat(r, "\n"); roman <- as.roman(c(4, 1990)); roman; perms <- function(v) if (length(v) <= 1) list(v) else unlist(lapply(seq_along(v), function(i) lapply(perms(v[-i]), function(p) c(v[i], p))), recursive = FALSE); length(perms(1:4)); combn(4, 2); expand.grid(a = 1:2, b = c("x", "y")); Recall; rev(cummax(c(1, 3, 2))); diff(c(1, 4, 9), lag = 1); embed(1:4, 2); tabulate(c(1, 2, 2)); findInterval(c(1.5, 3), 1:3); cumall <- Reduce(`&&`, list(TRUE, FALSE), accumulate = TRUE); cumall; mapply(function(...) sum(...), 1:2, 3:4, 5:6); vapply(split(1:6, c(1, 1, 2, 2, 3, 3)), sum, 0); bitwShiftL(1L, 4L); rev(as.integer(intToBits(6))[1:3]); strtoi(c("10", "077", "0xff"), 10L); crossprod(1:2, 3:4); max(sapply(list("a", "bbb"), nchar)); do.call(mapply, list(FUN = function(a, b) a * b, 1:3, 4:6)); trunc(5.99); sign(-3); rowSums(matrix(1:4, 2)); Negate(is.null)(1); identity(5); Find(function(x) x > 1, 1:3); nchar(strrep("ab", 3)); rev(list(1, 2))[[1]]; mean(c(TRUE, FALSE)); range(c(5, 1)); prod(1:5); var(c(1, 2, 3)); which.min(c(3, 1, 2)); rank(c(10, 30, 20)); cor(1:5, (1:5)^2); any(duplicated(c(1, 1)))
# === reading input that is not there
x <- readline(prompt = "Enter: ")
nchar(x)
n <- suppressWarnings(as.integer(readline("n? ")))
n
con <- file("stdin"); open(con); l <- readLines(con, n = 1); length(l); close(con)
scan(file("stdin"), quiet = TRUE)
menu(c("a", "b"))
# === lattice and grid objects that are not drawn
g <- grid::unit(1, "npc"); g; class(lattice::xyplot(1 ~ 1)); grid::gpar(col = "red")
# === colours
rgb(1, 0, 0); col2rgb("blue"); heat.colors(2); colorRampPalette(c("white", "black"))(3); hcl.colors(2); gray(0.5); adjustcolor("red", 0.5)
# === histograms and densities as numbers
h <- hist(c(1, 2, 2, 3), plot = FALSE); h$counts; h; d <- density(c(1, 2, 3)); d; b <- boxplot.stats(c(1, 2, 3, 100)); b$out; ecdf(1:4)(2); ecdf(1:3)
# === parallel and repeated work
unlist(parallel::mclapply(1:3, function(i) i^2)); parallel::detectCores() > 0; unlist(lapply(1:2, function(i) { Sys.sleep(0.001); i }))
# === tibbles in several forms
suppressPackageStartupMessages(library(tibble)); t <- tibble(a = 1:2, b = c("x", NA), c = list(1, "z"), d = as.Date("2024-01-01") + 0:1); t; t$a; t[["b"]]; t[1, ]; glimpse(t); as.data.frame(t); tribble(~x, ~y, 1, "a"); add_row(tibble(x = 1), x = 2); tibble(); tibble(x = numeric())
# === summary of models with tidy names
m <- lm(cbind(mpg, hp) ~ wt, mtcars); coef(m); manova(m); mt <- t.test(mtcars$mpg, mu = 20); mt$p.value |> round(5); names(mt); round(unname(mt$statistic), 4)
# === recursion over lists and trees
tree <- list(value = 1, children = list(list(value = 2, children = list()), list(value = 3, children = list(list(value = 4, children = list())))))
total <- function(n) n$value + sum(vapply(n$children, total, 0)); total(tree)
show <- function(n, depth = 0) { cat(strrep("  ", depth), n$value, "\n", sep = ""); for (c in n$children) show(c, depth + 1) }; show(tree)
# === matrices from text and back
m <- as.matrix(read.table(text = "1 2\n3 4")); m; dimnames(m) <- NULL; m; write.table(m, row.names = FALSE, col.names = FALSE); write.csv(data.frame(a = 1.5, b = "q\"x"), row.names = FALSE)
# === a quiet program
x <- 5; y <- x * 2; z <- c(x, y); f <- function(a) a; invisible(f(z)); rm(x)
# === a function with an error after output
report <- function(n) {
  cat("processing", n, "\n")
  if (n == 2) warning("odd value") else if (n == 3) stop("bad value: ", n)
  invisible(n)
}
for (i in 1:5) report(i)
# === unicode names and text
größe <- 5; größe + 1; c("ä" = 1); data.frame("naïve" = 1, check.names = FALSE); nchar("😀"); cat("emoji 😀\n"); sprintf("%3s|", "é"); toupper("straße"); rev(utf8ToInt("é")); "日本語"; print(c("α", "β"), quote = FALSE)
