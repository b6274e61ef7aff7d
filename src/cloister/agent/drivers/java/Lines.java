package cloister.kernel;

import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;

/**
 * Where the lines of JShell's wrapper classes come from. JShell wraps each snippet in a class of its own; this asks its table of wrappers, so that
 * classes can be given the user's lines as they are loaded and every stack trace, printed by whomever, is right. The table is JShell's own and
 * not public: it is reached by reflection.
 */
final class Lines {
    private static final Pattern WRAPPER = Pattern.compile("REPL\\.(\\$JShell\\$\\d+[A-Z]*).*");
    private final Map<String, Origin> origins = new HashMap<>();
    private final Field table;
    private final Method find;
    private final Method lineOf;
    private final Method snippetOf;
    private JShell shell;

    /** Where a snippet begins: the cell's number and the line in it, from 0. */
    record Origin(int cell, int line) { }

    Lines() {
        try {
            table = JShell.class.getDeclaredField("outerMap");
            find = open(table.getType().getDeclaredMethod("getOuter", String.class));
            lineOf = open(Class.forName("jdk.jshell.GeneralWrap").getDeclaredMethod("wrapLineToSnippetLine", int.class));
            snippetOf = open(Class.forName("jdk.jshell.OuterSnippetsClassWrap").getDeclaredMethod("wrapLineToSnippet", int.class));
            table.setAccessible(true);
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell has another table of wrappers", changed);
        }
    }

    private static Method open(Method method) {
        method.setAccessible(true);
        return method;
    }

    void attach(JShell owner) {
        shell = owner;
    }

    /** Remembers where a snippet that is about to be evaluated begins. */
    void remember(String source, Origin origin) {
        origins.put(source, origin);
    }

    /** Where a snippet began when its source was last evaluated; cell 0 for code of the kernel's own. */
    Origin origin(Snippet snippet) {
        return origins.getOrDefault(snippet.source(), new Origin(0, 0));
    }

    /** The wrapper that a class is part of, or null when JShell did not make the class. */
    Object wrapper(String className) {
        Matcher match = WRAPPER.matcher(className);
        return match.matches() ? call(find, get(), match.group(1)) : null;
    }

    /** From a line of a wrapper (from 1) to one of its cell (from 1), or 0 for a line that the wrapper added. */
    int line(Object wrapper, int wrapped) {
        Snippet snippet = (Snippet) call(snippetOf, wrapper, wrapped - 1);
        int line = snippet == null ? -1 : (int) call(lineOf, wrapper, wrapped - 1);
        return line < 0 ? 0 : origin(snippet).line() + line + 1;
    }

    /** The name of the cell that a line of a wrapper comes from, as a file name, or null. */
    String file(Object wrapper, int wrapped) {
        Snippet snippet = (Snippet) call(snippetOf, wrapper, wrapped - 1);
        return snippet == null ? null : "cell-" + origin(snippet).cell();
    }

    private Object get() {
        try {
            return table.get(shell);
        } catch (IllegalAccessException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static Object call(Method method, Object target, Object argument) {
        try {
            return method.invoke(target, argument);
        } catch (InvocationTargetException outside) {
            return method.getReturnType() == int.class ? -1 : null; // a line outside of any snippet
        } catch (IllegalAccessException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
