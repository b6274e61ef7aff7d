# Starts the R driver, which is session.R. Of a script R takes expressions one at a time as from a terminal, which needs 50 ms for one as
# large as the driver; parse() needs 1 ms. Nothing stays behind in the global environment.
eval(parse(file.path(dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)[1L])), "session.R"), keep.source = FALSE))
