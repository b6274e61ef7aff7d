package cloister.kernel;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.regex.Pattern;

/** Stack traces as the user should see them: without the frames of the kernel and of reflection, and without JShell's wrapper names. */
final class Traces {
    private static final Pattern WRAPPER = Pattern.compile("REPL\\.\\$JShell\\$\\d+[A-Z]*[.$]");
    private static final Pattern HIDDEN = Pattern.compile("\\s*at (cloister\\.kernel\\.|(java\\.base/)?(jdk\\.internal\\.reflect\\.|java\\.lang\\.reflect\\.)).*");
    private static final Pattern BODY = Pattern.compile("do_it\\$\\(");

    private Traces() { }

    /** One line of a printed stack trace, or null when it is to be left out. */
    static String line(String text) {
        boolean frame = text.startsWith("\tat ") || text.startsWith("\t\tat ");
        if (frame && (HIDDEN.matcher(text).matches() || text.contains(".run(Engine.java"))) {
            return null;
        }
        String plain = names(text);
        return frame ? BODY.matcher(plain).replaceAll("<cell>(") : plain;
    }

    /** Text without JShell's wrapper names. */
    static String names(String text) {
        return text.contains("$JShell$") ? WRAPPER.matcher(text).replaceAll("") : text;
    }

    /** The whole trace, causes included. */
    static String render(Throwable thrown) {
        StringWriter text = new StringWriter();
        thrown.printStackTrace(new PrintWriter(text, true));
        StringBuilder kept = new StringBuilder();
        for (String line : text.toString().split("\n")) {
            String shown = line(line);
            if (shown != null) {
                kept.append(kept.isEmpty() ? "" : "\n").append(shown);
            }
        }
        return kept.toString();
    }
}
