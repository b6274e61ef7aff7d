# === closures
counter <- function() { n <- 0; function() { n <<- n + 1; n } }
a <- counter(); a(); a()
b <- counter(); b()
# === recursion
fib <- function(n) if (n < 2) n else fib(n - 1) + fib(n - 2)
sapply(0:10, fib)
fact <- function(n) if (n <= 1) 1 else n * fact(n - 1); fact(20)
# === apply family
lapply(1:2, function(i) i^2)
sapply(c(a = 1, b = 2), function(x) x * 10)
vapply(1:3, function(i) letters[i], "")
mapply(function(x, y) x + y, 1:3, 4:6)
Map(function(k, v) paste(k, v), c("a", "b"), 1:2)
rapply(list(1, "a"), toupper, classes = "character", how = "replace")
outer(1:2, 1:3, "+")
# === functional
Reduce(`+`, 1:5, accumulate = TRUE); Filter(function(x) x > 2, 1:4); Position(function(x) x > 2, c(1, 5, 3))
do.call(rbind, list(1:2, 3:4)); Recall; compose <- function(f, g) function(x) g(f(x)); compose(sqrt, abs)(4)
(\(x) x + 1)(2)
c(1, 4, 9) |> sqrt() |> sum()
# === control flow
for (i in 1:3) if (i == 2) next else cat(i, "")
cat("\n")
i <- 0; repeat { i <- i + 1; if (i > 3) break }; i
while (TRUE) { i <- i - 1; if (i < 0) break }; i
switch("b", a = "A", b = "B", "other"); switch("z", a = 1); switch(2, "x", "y"); switch("c", a = , c = "fall")
ifelse(c(1, NA, 3) > 2, "big", "small")
x <- if (TRUE) "yes" else "no"; x
# === vectorised strings
s <- c("apple123", "banana", "cherry7")
grepl("[0-9]+", s); sub("[0-9]+", "", s); gsub("a", "A", s); regmatches(s, regexpr("[0-9]+", s))
strsplit("a,b;c", "[,;]"); sprintf("%s has %d", s, nchar(s)); rev(strsplit("abc", "")[[1]])
toupper(letters[1:3]); trimws("  x "); startsWith(s, "b"); paste0(s, collapse = "|"); rep("-", 3)
regexpr("an", "banana"); gregexpr("an", "banana")[[1]]; sprintf("%08.3f", 3.14159); casefold("AB", upper = FALSE)
formatC(c("a", "bb"), width = 5); formatC(c("a", "bb"), width = -5); strtrim("abcdef", 3); sprintf("%s", list("a", 1L))
# === S3
print.dog <- function(x, ...) cat("<dog ", x$name, ">\n", sep = "")
d <- structure(list(name = "Rex"), class = "dog")
d
print(d)
speak <- function(x, ...) UseMethod("speak")
speak.default <- function(x, ...) cat("...\n")
speak.dog <- function(x, ...) { cat("Woof\n"); NextMethod() }
speak(d); inherits(d, "dog"); format.dog <- function(x, ...) "DOG"; format(d)
summary.dog <- function(object, ...) structure(list(n = 1), class = "summary.dog")
print.summary.dog <- function(x, ...) cat("summary of a dog\n")
summary(d)
"+.money" <- function(e1, e2) structure(list(v = e1$v + e2$v), class = "money")
toString(1:3); x <- structure(list(v = 1), class = "money"); (x + x)$v
length.money <- function(x) 99L; length(x)
list(d, 1)
# === S4
setClass("P", representation(name = "character", age = "numeric"))
p <- new("P", name = "Al", age = 3)
p
isVirtualClass("P"); p@name
setMethod("show", "P", function(object) cat("<P ", object@name, ">\n", sep = ""))
p
setGeneric("area", function(shape) standardGeneric("area"))
setMethod("area", "P", function(shape) shape@age * 2)
area(p)
setValidity("P", function(object) if (length(object@name) != 1) "one name" else TRUE)
tryCatch(new("P", name = c("a", "b")), error = function(e) cat(conditionMessage(e), "\n"))
list(p)
# === reference classes
Account <- setRefClass("Account", fields = list(balance = "numeric"), methods = list(
  deposit = function(x) { balance <<- balance + x; invisible(.self) },
  show = function() cat("Balance:", balance, "\n")))
a <- Account$new(balance = 10)
a$deposit(5)
a
a$balance
# === conditions
r <- tryCatch({ warning("w!"); 1 }, warning = function(w) { cat("caught", conditionMessage(w), "\n"); 2 }, finally = cat("finally\n"))
r
tryCatch(stop("bad"), error = function(e) print(e))
tryCatch(stop("bad"), error = function(e) conditionMessage(e))
f <- function() stop("inside"); tryCatch(f(), error = function(e) print(conditionCall(e)))
res <- try(log(-1), silent = TRUE); res
res <- try(stop("oops"), silent = TRUE); class(res); cat(res)
withCallingHandlers({ warning("x"); "value" }, warning = function(w) { cat("handling\n"); invokeRestart("muffleWarning") })
tryCatch(signalCondition(structure(class = c("mine", "condition"), list(message = "hello", call = NULL))), mine = function(c) "got mine")
stopifnot(TRUE); tryCatch(stopifnot("x must be positive" = -1 > 0), error = function(e) cat(conditionMessage(e), "\n"))
tryCatch(as.integer("x"), warning = function(w) class(w))
tryCatch(match.arg("z", c("a", "b")), error = function(e) cat("no match\n"))
# === on.exit and return
f <- function() { on.exit(cat("bye\n")); cat("hi\n"); return(invisible(1)) }
f()
g <- function() { on.exit(cat("1\n")); on.exit(cat("2\n"), add = TRUE); stop("x") }
try(g(), silent = TRUE)
# === error stops the program
cat("before\n")
stop("the end")
cat("never\n")
# === error in a function
f <- function(x) {
  if (x > 1) stop("too big: ", x)
  x
}
f(1)
f(2)
f(3)
# === undefined object
x <- 1
y + 1
x
# === wrong types
cat("a\n")
"a" + 1
# === subscript out of bounds
l <- list(1)
l[[3]]
# === missing function
nosuchfunction(1)
# === missing argument
f <- function(a) a + 1
f()
# === unused argument
f <- function(a) a
f(1, b = 2)
# === warnings
x <- as.numeric(c("1", "b"))
x
f <- function() { warning("first"); warning("second"); "done" }
f()
1:3 + 1:2
sqrt(-1)
# === messages and output
message("m1"); cat("c1\n"); message("m2")
print("p")
packageStartupMessage("start")
# === random numbers
set.seed(42); runif(3); rnorm(3); sample(10); sample(c("a", "b"), 5, TRUE)
set.seed(1, kind = "Mersenne-Twister"); rbinom(3, 10, 0.5); rpois(2, 4); round(rexp(2), 4)
RNGkind("Mersenne-Twister"); set.seed(2); sample(3)
# === linear model
m <- lm(mpg ~ wt + hp, data = mtcars)
m
summary(m)
anova(m)
round(coef(m), 3); head(residuals(m), 3); predict(m, data.frame(wt = 3, hp = 100))
confint(m)
# === logistic regression
g <- glm(am ~ wt, data = mtcars, family = binomial)
g
summary(g)
# === tests
t.test(extra ~ group, data = sleep)
chisq.test(table(mtcars$cyl, mtcars$am), simulate.p.value = FALSE)
cor.test(mtcars$mpg, mtcars$wt)
wilcox.test(c(1.1, 2.2, 3.3), c(4.4, 5.5, 6.6))
shapiro.test(mtcars$mpg)
# === analysis of variance
a <- aov(weight ~ group, data = PlantGrowth)
a
summary(a)
TukeyHSD(a)
# === other models
nls(mpg ~ a + b * wt, data = mtcars, start = list(a = 40, b = -5))
kmeans(c(1, 2, 10, 11), centers = c(1, 10))$cluster
hclust(dist(c(1, 2, 10)))
prcomp(USArrests, scale. = TRUE)
optimize(function(x) (x - 2)^2, c(0, 5))$minimum |> round(3)
optim(c(1, 1), function(p) sum((p - c(3, 4))^2))$convergence
integrate(dnorm, -1.96, 1.96)
uniroot(function(x) x^2 - 2, c(0, 2))$root |> round(3)
spline(1:3, c(1, 4, 9), n = 3); approx(1:2, c(10, 20), xout = 1.5)$y
polyroot(c(6, -5, 1)); D(quote(x^2 * sin(x)), "x")
# === time series
ts(1:12, start = c(2024, 1), frequency = 12)
window(ts(1:8, start = 2000), 2003, 2005)
# === files
f <- tempfile(fileext = ".csv")
write.csv(data.frame(a = 1:2, b = c("x", "y")), f, row.names = FALSE)
readLines(f); read.csv(f)
con <- file(f, "a"); writeLines("3,z", con); close(con); nrow(read.csv(f))
unlink(f); file.exists(f); basename("/a/b.txt"); tools::file_ext("x.tar.gz"); file.path("a", "b")
saveRDS(1:3, f); readRDS(f); dput(list(a = 1, b = "x"))
tc <- textConnection("l1\nl2"); readLines(tc); close(tc)
read.table(text = "a b\n1 2\n3 4", header = TRUE)
scan(text = "1 2 3")
scan(text = "a,b", what = "", sep = ",", quiet = TRUE)
capture.output(print(1:3))
# === input is at its end
readline("name? ")
readLines("stdin")
readLines(file("stdin"))
scan(file = "stdin", quiet = TRUE)
# === sinks
sink(tempfile()); print("hidden"); cat("hidden\n"); sink()
print("seen")
zz <- textConnection("out", "w"); sink(zz); print(1:2); sink(); close(zz); out
# === source of another file
writeLines(c("y <- 5", "y", "print(y * 2)"), "part.R")
source("part.R")
source("part.R", echo = TRUE)
y
# === evaluation
eval(parse(text = "1 + 1")); eval(quote(x * 2), list(x = 5)); f <- function(...) names(list(...)); f(a = 1, 2)
f <- function(x, ...) UseMethod("f"); f.numeric <- function(x, ...) "num"; f(1L)
match.arg("me", c("mean", "median")) |> try(silent = TRUE) |> class()
do.call("sum", list(1, 2)); Vectorize(function(a, b) a + b)(1:2, 3:4); nchar(deparse(function(x) x))
sys.function; missing; local({ a <- 1; a + 1 })
`my var` <- 3; `my var` + 1; assign("v", 9); v; get("v"); exists("v")
# === matrices of text
m <- matrix(c("a", "b", "c", "d"), 2, dimnames = list(NULL, c("x", "y"))); m
noquote(m); print(m, quote = FALSE)
# === replacement functions and operators
`second<-` <- function(x, value) { x[2] <- value; x }
x <- 1:3; second(x) <- 10L; x
`%+%` <- function(a, b) paste0(a, b); "a" %+% "b"
names(x)[2] <- "two"; x; x[["two"]]; levels(f <- factor("a")) <- "z"
modifyList(list(a = 1, b = 2), list(b = 3))
# === iteration with names
for (n in names(list(a = 1, b = 2))) cat(n, "\n")
for (row in seq_len(2)) print(mtcars[row, 1:3])
invisible(lapply(1:2, function(i) cat("item", i, "\n")))
sapply(split(mtcars$mpg, mtcars$cyl), mean)
invisible(sapply(1:2, print))
# === progress and carriage returns
for (i in 1:3) cat("\rstep", i)
cat("\n")
pb <- txtProgressBar(max = 3, style = 3)
for (i in 1:3) setTxtProgressBar(pb, i)
close(pb)
# === system commands
system("echo from shell")
x <- system("echo captured", intern = TRUE); x
system2("echo", c("a", "b"))
Sys.getenv("HOME") != ""; Sys.setenv(FOO = "bar"); Sys.getenv("FOO"); nchar(Sys.time() |> format()) > 5
# === quitting
cat("a\n")
quit(status = 0)
cat("never\n")
# === quitting with a status
cat("a\n")
q("no", 3)
cat("never\n")
# === bad code
x <- 1
cat("never\n"
y <- 2
# === bad token
x <- 5 5
# === carriage returns at the ends of lines
x <- 1
x + 1
# === matrix determinant and strings of code
code <- "for (i in 1:2) print(i)"
eval(parse(text = code))
invisible(eval(parse(text = "5")))
# === dplyr
suppressPackageStartupMessages(library(dplyr))
mtcars |> group_by(cyl) |> summarise(n = n(), mpg = mean(mpg)) |> as.data.frame()
tibble(x = 1:3, y = letters[1:3])
filter(tibble(a = 1:4), a > 2)
mutate(tibble(a = 1:2), b = a * 2) |> arrange(desc(b))
starwars_like <- tibble(n = c("a", "b"), l = list(1, 2:3)); starwars_like
count(mtcars, gear)
left_join(tibble(k = 1:2), tibble(k = 2:3, v = c("x", "y")), by = "k")
# === tidyr and purrr
library(tidyr); library(purrr)
pivot_longer(data.frame(id = 1:2, a = 3:4, b = 5:6), c(a, b))
map_dbl(1:3, ~ .x^2); map_chr(c("a", "b"), toupper)
# === stringr
library(stringr)
str_detect(c("apple", "bob"), "pp"); str_pad("7", 3, pad = "0"); str_split("a-b", "-"); str_c("a", "b", sep = "+")
# === jsonlite
library(jsonlite)
toJSON(list(a = 1, b = "x"), auto_unbox = TRUE)
fromJSON('{"x": [1, 2, 3]}')
cat(toJSON(data.frame(a = 1:2), pretty = TRUE), "\n")
# === lubridate
suppressPackageStartupMessages(library(lubridate))
ymd("2024-03-01") - days(1); year(ymd("2024-03-01")); floor_date(ymd("2024-03-15"), "month")
# === data.table
suppressPackageStartupMessages(library(data.table))
dt <- data.table(g = c("a", "b", "a"), v = 1:3)
dt[, .(s = sum(v)), by = g]
dt[v > 1]
dt[, w := v * 2]
dt
# === classic algorithms
is_prime <- function(n) n > 1 && all(n %% 2:max(2, floor(sqrt(n))) != 0 | n == 2:max(2, floor(sqrt(n))))
Filter(is_prime, 1:30)
sieve <- function(n) { p <- 2:n; i <- 1; while (i <= length(p)) { p <- p[p == p[i] | p %% p[i] != 0]; i <- i + 1 }; p }; sieve(30)
hanoi <- function(n, a = "A", b = "B", c = "C") if (n > 0) { hanoi(n - 1, a, c, b); cat(a, "->", c, "\n"); hanoi(n - 1, b, a, c) }
hanoi(2)
bubble <- function(x) { n <- length(x); for (i in 1:(n - 1)) for (j in 1:(n - i)) if (x[j] > x[j + 1]) x[c(j, j + 1)] <- x[c(j + 1, j)]; x }
bubble(c(3, 1, 2))
gcd <- function(a, b) if (b == 0) a else gcd(b, a %% b); gcd(48, 18)
matrix(sapply(1:3, function(i) sapply(1:3, function(j) i * j)), 3)
paste(rev(strsplit("hello", NULL)[[1]]), collapse = "")
table(strsplit("mississippi", "")[[1]])
# === fizzbuzz
for (i in 1:15) cat(if (i %% 15 == 0) "FizzBuzz" else if (i %% 3 == 0) "Fizz" else if (i %% 5 == 0) "Buzz" else i, "\n")
# === simulation
set.seed(123)
n <- 1000; x <- runif(n); y <- runif(n)
cat("pi is about", 4 * mean(x^2 + y^2 <= 1), "\n")
w <- cumsum(sample(c(-1, 1), 10, TRUE)); w
replicate(3, mean(rnorm(5))) |> round(3)
# === stack and queue
s <- c(); s <- c(s, 1); s <- c(s, 2); top <- s[length(s)]; s <- s[-length(s)]; top; s
q <- list(); q <- append(q, list("a")); q <- append(q, list("b")); q[[1]]
# === global assignment and masking
x <- 1; f <- function() { x <- 2; g <- function() x <<- 3; g(); x }; f(); x
T <- FALSE; T; rm(T); T
sum <- function(...) "mine"; sum(1); rm(sum); sum(1)
c <- 5; c(1, c)
# === stopping in nested calls
outer_f <- function() inner_f()
inner_f <- function() { cat("in\n"); stop("deep") }
outer_f()
# === errors of conditions of a class
cond <- structure(class = c("custom_error", "error", "condition"), list(message = "special", call = NULL))
tryCatch(stop(cond), custom_error = function(e) cat("custom:", conditionMessage(e), "\n"))
rlang_like <- tryCatch(stop(cond), error = function(e) class(e)[1]); rlang_like
warning(structure(class = c("cw", "warning", "condition"), list(message = "cw!", call = NULL)))
cat("goes on\n")
# === sprintf and vectors of widths
cat(sprintf("%-10s|%5d\n", c("ab", "cde"), c(1L, 22L)), sep = "")
cat(format(c("x", "yyy"), width = 5), "|\n"); cat(formatC(c(1.5, 22.75), digits = 1, format = "f", width = 8), "\n")
cat(strrep("=", 20), "\n", sep = ""); cat("a\\b", "tab\there", "\n")
cat("Unicode: \u00e9 \u4e2d\n"); print("\u00e9"); "\u00e9\n"
