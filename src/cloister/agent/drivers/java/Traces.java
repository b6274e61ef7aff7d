package cloister.kernel;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** Stack traces as the user should see them: without the kernel's frames, and without JShell's wrapper names. */
final class Traces {
    private static final int LIMIT = 100; // lines of one trace
    private static final Pattern WRAPPER = Pattern.compile("REPL\\.(?:\\$JShell\\$\\d+[A-Z]*[.$]?|unit\\d+\\.)");
    private static final Pattern HIDDEN = Pattern.compile("\\s*at (?:app//)?cloister\\.kernel\\..*");
    private static final Pattern BODY = Pattern.compile("do_it\\$\\(");

    private Traces() { }

    /** One line of a printed stack trace, or null when it is to be left out. */
    static String line(String text) {
        boolean frame = text.startsWith("\tat ") || text.startsWith("\t\tat ");
        if (frame && (HIDDEN.matcher(text).matches() || text.contains("(cell-0"))) { // cell 0: the call that starts a program
            return null;
        }
        String plain = names(text);
        return frame ? BODY.matcher(plain).replaceAll("<cell>(") : plain;
    }

    /** Text without JShell's wrapper names. */
    static String names(String text) {
        return text.contains("REPL.") ? WRAPPER.matcher(text).replaceAll("") : text;
    }

    /** The whole trace, causes included. */
    static String render(Throwable thrown) {
        StringWriter text = new StringWriter();
        thrown.printStackTrace(new PrintWriter(text, true));
        List<String> kept = new ArrayList<>();
        for (String line : text.toString().split("\n")) {
            String shown = line(line);
            if (shown != null) {
                kept.add(shown);
            }
        }
        if (kept.size() > LIMIT) {
            List<String> middle = kept.subList(LIMIT / 2, kept.size() - LIMIT / 2);
            String note = "\t... " + middle.size() + " frames left out";
            middle.clear();
            kept.add(LIMIT / 2, note);
        }
        return String.join("\n", kept);
    }
}
