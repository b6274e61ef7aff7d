# === vectors
x <- c(3, 1, 2)
x
sort(x); rev(x); cumsum(x)
x[x > 1]
x[-1]; x["a"]
# === named vectors
v <- c(a = 1, b = 2.5)
v
names(v); v["b"]
v[["a"]]
# === sequences
1:20
seq(0, 1, by = 0.25)
seq_len(0)
rev(seq(2, 20, length.out = 4))
# === numbers
pi; 1e10; 1e5; 100000; 123456789; 0.1 + 0.2; 1/3
1e-20; 22/7; 1e15; 1e16; 123456.789
5 %/% 2; -5 %/% 2; 5 %% 3; -5 %% 3; 5L / 2L
# === special numbers
c(NA, NaN, Inf, -Inf, 0)
is.na(NaN); NA > 1; NA & FALSE; sqrt(2)^2 == 2
.Machine$integer.max + 1L
# === complex and raw
complex(real = 1, imaginary = -2)
as.raw(c(1, 255)); xor(as.raw(3), as.raw(1)); Mod(3+4i)
# === strings
"a\tb"; 'it\'s'; "quote \" in"; "unicode é 日本"
c("a", NA)
nchar("日本"); toupper("abc"); substr("hello", 2, 4)
# === logical
c(TRUE, FALSE, NA)
any(c(FALSE, NA, TRUE)); all(logical(0)); which(c(F, T, T))
# === null and empty
NULL
character(0); integer(0); list(); data.frame()
invisible(3)
invisible(5) + 1
# === lists
l <- list(a = 1, b = "x", c = list(d = 1:3))
l
str(l)
l$c$d[2]; l[["b"]]; length(l)
# === nested and unnamed lists
list(1, list(2, "a"), NULL)
# === factors
f <- factor(c("lo", "hi", "lo"), levels = c("lo", "hi"))
f
levels(f); as.integer(f); table(f); summary(f)
factor(c("a", NA)); droplevels(f[f == "hi"])
# === ordered factors and cut
cut(c(1, 5, 10), breaks = c(0, 5, 10), labels = c("low", "high"))
o <- factor(c("s", "m"), levels = c("s", "m"), ordered = TRUE)
o; o[1] < o[2]
# === matrices
m <- matrix(1:6, nrow = 2)
m
t(m); dim(m); m %*% t(m); m[2, ]; m[, 2, drop = FALSE]
rownames(m) <- c("a", "b"); m
apply(m, 1, sum); apply(m, c(1, 2), function(x) x * 10)
# === matrix algebra
a <- matrix(c(2, 1, 1, 3), 2)
solve(a); det(a); diag(2); crossprod(a)
eigen(a)
svd(a)$d; qr(a)$rank
outer(1:3, 1:3)
# === arrays
array(1:12, dim = c(2, 3, 2))
# === data frame
df <- data.frame(x = 1:3, y = c("a", "b", "c"), z = c(1.5, NA, 3))
df
str(df)
summary(df)
df[df$x > 1, ]; df$y; df[["z"]]; nrow(df); colnames(df)
head(mtcars, 3)
# === data frame operations
df <- data.frame(g = c("a", "b", "a", "b"), v = 1:4)
aggregate(v ~ g, data = df, FUN = sum)
tapply(df$v, df$g, mean)
by(df$v, df$g, sum)
split(df, df$g)
df[order(-df$v), ]
with(df, sum(v))
transform(df, w = v * 2)
subset(df, v > 2, select = g)
# === merge
a <- data.frame(k = c(1, 2, 3), x = c("a", "b", "c"))
b <- data.frame(k = c(2, 3, 4), y = c(TRUE, FALSE, TRUE))
merge(a, b); merge(a, b, all = TRUE)
rbind(a, data.frame(k = 9, x = "z")); cbind(a, n = 3:1)
# === reshape
wide <- data.frame(id = 1:2, t1 = c(5, 6), t2 = c(7, 8))
long <- reshape(wide, direction = "long", varying = c("t1", "t2"), v.names = "t", timevar = "time", idvar = "id")
long
stack(list(a = 1:2, b = 3))
# === empty frames
data.frame(a = integer(0), b = character(0))
data.frame(row.names = c("x", "y"))
df <- data.frame(x = 1:3); df[df$x > 5, , drop = FALSE]
# === frame with a matrix, a list and duplicate names
df <- data.frame(id = 1:2); df$m <- matrix(1:4, 2); df$l <- list(1:2, "a")
df
data.frame(a = 1, a = 2, check.names = FALSE)
# === wide and long frames
as.data.frame(matrix(1:40, 2))
data.frame(n = 1:5, s = c("a long string of text", "b", "c", "d", "e"), stringsAsFactors = TRUE)
# === dates
d <- as.Date("2024-02-28")
d; d + 0:3; format(d, "%d/%m/%Y"); weekdays(d); months(d)
seq(d, by = "month", length.out = 3)
diff(as.Date(c("2024-01-01", "2024-03-01")))
as.numeric(d); difftime(as.Date("2024-03-01"), d, units = "hours")
# === times
t <- as.POSIXct("2024-01-02 03:04:05", tz = "UTC")
t; t + 3600; format(t, "%H:%M"); as.POSIXlt(t)$year + 1900
trunc(t, "hours"); round(difftime(t + 90, t), 1)
as.POSIXct("2024-07-01 12:00", tz = "America/New_York")
strptime("01Feb2020", "%d%b%Y", tz = "UTC")
ISOdate(2020, 1, 1)
# === tables
table(c("a", "b", "a"))
table(mtcars$cyl, mtcars$gear)
prop.table(table(c(TRUE, FALSE, TRUE)))
xtabs(~ cyl + am, mtcars)
quantile(1:10); fivenum(c(1, 5, 2)); range(3:1)
# === functions print with their source
f <- function(x, y = 2) {
  # a comment
  x + y
}
f
args(sum)
body(f); formals(f)
# === formulas, calls and expressions
y ~ x + z
quote(a + b * c)
expression(a, b + 1)
substitute(x + y, list(x = 1))
deparse(quote(if (a) b else c))
# === environments
e <- new.env(); assign("x", 1, e); get("x", e); exists("nope", e)
ls(e); environmentName(globalenv()); class(e)
# === printing forms
print(c(a = 1.123456789), digits = 3)
print("quoted"); print("plain", quote = FALSE); noquote("n")
format(1234567.891, big.mark = ","); format(TRUE); format(c("a", "bbb")); format(0.00001)
formatC(3.14159, digits = 3, format = "f"); formatC(5, width = 8, flag = "0")
prettyNum(1e6, big.mark = ","); sprintf("%5.2f|%-8s|%03d|%e|%%", pi, "ab", 7, 12345.678)
cat("a", 1, TRUE, NULL, NA, "\n"); cat("x", "y", sep = ""); cat("\n")
cat(1:10, fill = 20)
message("to stderr")
print(invisible(7))
toString(1:5); writeLines(c("a", "b")); dQuote("x", FALSE)
# === options of printing
options(digits = 3); pi; options(digits = 7)
options(width = 40); 1:30; options(width = 80)
options(scipen = 100); 1e10; 1e-7; options(scipen = 0)
# === long vectors are wrapped
letters
(1:30)^2
setNames(1:12, month.abb)
# === large output is cut
options(max.print = 10)
1:100
options(max.print = 99999)
# === structure and attributes
x <- structure(1:3, class = "thing", note = "hi")
unclass(x)
attributes(x)
structure(list(a = 1), class = "rec")
# === bits and bases
bitwAnd(12L, 10L); strtoi("ff", 16L); strtoi("077", 8); rev(as.integer(intToBits(5))[1:4])
as.hexmode(255); as.octmode(8L); chartr("abc", "xyz", "aabbcc")
# === sets
union(1:3, 2:5); intersect(1:5, 4:9); setdiff(1:5, 2:3); 3 %in% 1:5; unique(c(1, 1, 2)); duplicated(c("a", "a"))
match("b", letters); rle(c(1, 1, 2)); inverse.rle(rle(c("a", "a")))
# === semicolons and comments
1; 2 # two
# nothing
x <- 5; x
(x <- 6)
# === nothing visible
x <- 1
f <- function() invisible(x)
f()
y <- f()
if (FALSE) 1
for (i in 1:3) i
NULL -> z
library(stats)
suppressWarnings(as.numeric("a"))
