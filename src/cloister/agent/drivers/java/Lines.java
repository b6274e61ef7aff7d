package cloister.kernel;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.JShell;

/**
 * Where the lines of JShell's wrapper classes come from. JShell wraps each snippet in a class of its own; this asks its table of wrappers, so that
 * classes can be given the user's lines as they are loaded and every stack trace, printed by whomever, is right. The table is JShell's own and
 * not public: it is reached by reflection. Snippets are evaluated with the newlines that precede them in their cell, so snippet lines are cell lines.
 */
final class Lines {
    private static final Pattern WRAPPER = Pattern.compile("REPL\\.(\\$JShell\\$(\\d+)[A-Z]*).*");
    private final Map<String, Integer> cells = new ConcurrentHashMap<>();
    private JShell shell;
    volatile int cell;

    void attach(JShell owner) {
        shell = owner;
    }

    /** The cell of a wrapper class's code as a source file name, or null for other classes. */
    String source(String className) {
        Matcher match = WRAPPER.matcher(className);
        return match.matches() ? "cell-" + cells.computeIfAbsent(match.group(2), key -> cell) : null;
    }

    /** Gives the wrapper of a class: from a line of the wrapper (from 1) to one of the cell (from 1), or 0. */
    java.util.function.IntUnaryOperator mapping(String className) {
        Matcher match = WRAPPER.matcher(className);
        if (!match.matches()) {
            return null;
        }
        try {
            Field field = JShell.class.getDeclaredField("outerMap");
            field.setAccessible(true);
            Object table = field.get(shell);
            Method find = table.getClass().getDeclaredMethod("getOuter", String.class);
            find.setAccessible(true);
            Object wrapper = find.invoke(table, match.group(1));
            if (wrapper == null) {
                return null;
            }
            Method line = Class.forName("jdk.jshell.GeneralWrap").getDeclaredMethod("wrapLineToSnippetLine", int.class);
            line.setAccessible(true);
            return wrapped -> lineOf(line, wrapper, wrapped);
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell has another table of wrappers", changed);
        }
    }

    private static int lineOf(Method line, Object wrapper, int wrapped) {
        try {
            return (int) line.invoke(wrapper, wrapped - 1) + 1;
        } catch (ReflectiveOperationException outside) {
            return 0; // a line that the wrapper added
        }
    }
}
