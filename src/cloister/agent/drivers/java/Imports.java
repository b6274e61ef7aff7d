package cloister.kernel;

import java.lang.reflect.AccessibleObject;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.List;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;

/**
 * The imports that every context begins with. JShell would compile each by itself, which is most of the time that a kernel needs to start; these
 * are packages of the JDK that do exist, so they are entered into JShell's tables as it enters an import that has been compiled. The tables are
 * JShell's own and not public: they are reached by reflection.
 */
final class Imports {
    private static final List<String> PACKAGES = List.of(
        "java.io", "java.math", "java.net", "java.nio.file", "java.util", "java.util.concurrent", "java.util.function",
        "java.util.prefs", "java.util.regex", "java.util.stream");

    private Imports() { }

    static void enter(JShell shell) {
        try {
            Object eval = open(JShell.class.getDeclaredField("eval")).get(shell);
            Object maps = open(JShell.class.getDeclaredField("maps")).get(shell);
            Object wrappers = open(JShell.class.getDeclaredField("outerMap")).get(shell);
            Class<?> wrap = Class.forName("jdk.jshell.Wrap");
            Class<?> diagnostics = Class.forName("jdk.jshell.DiagList");
            Method parse = open(eval.getClass().getDeclaredMethod("processImport", String.class, String.class));
            Method install = open(maps.getClass().getDeclaredMethod("installSnippet", Snippet.class));
            Method guts = open(Snippet.class.getDeclaredMethod("guts"));
            Method wrapImport = open(wrappers.getClass().getDeclaredMethod("wrapImport", wrap, Snippet.class));
            Method setWrap = open(Snippet.class.getDeclaredMethod("setOuterWrap", Class.forName("jdk.jshell.OuterWrap")));
            Method finish = open(Snippet.class.getDeclaredMethod("setCompilationStatus", Snippet.Status.class, List.class, diagnostics));
            Constructor<?> none = open(diagnostics.getDeclaredConstructor());
            for (String name : PACKAGES) {
                String line = "import " + name + ".*;";
                for (Object snippet : (List<?>) parse.invoke(eval, line, line)) {
                    install.invoke(maps, snippet);
                    setWrap.invoke(snippet, wrapImport.invoke(wrappers, guts.invoke(snippet), snippet));
                    finish.invoke(snippet, Snippet.Status.VALID, List.of(), none.newInstance());
                }
            }
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell keeps its imports elsewhere", changed);
        }
    }

    private static <T extends AccessibleObject> T open(T member) {
        member.setAccessible(true);
        return member;
    }
}
