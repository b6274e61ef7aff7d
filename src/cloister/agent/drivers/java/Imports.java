package cloister.kernel;

import java.io.IOException;
import java.lang.reflect.AccessibleObject;
import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URI;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import jdk.jshell.ImportSnippet;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;

/**
 * The imports of a context. JShell would compile each by itself, which is most of the time that a kernel needs to start; those that are known to be
 * right are entered into its tables as it enters an import that has been compiled. The tables are JShell's own and not public: they are reached
 * by reflection.
 */
final class Imports {
    private static final Set<String> PACKAGES = new LinkedHashSet<>(List.of(
        "java.io", "java.math", "java.net", "java.nio.file", "java.util", "java.util.concurrent", "java.util.function",
        "java.util.prefs", "java.util.regex", "java.util.stream"));
    private static final Pattern LINE = Pattern.compile("import\\s+(static\\s+)?([\\w.$\\s]+?(?:\\.\\s*\\*)?)\\s*;");
    private static final FileSystem JDK = FileSystems.getFileSystem(URI.create("jrt:/"));
    private final Map<String, Set<String>> listed = new HashMap<>();
    private final JShell shell;
    private final Units units;
    private final Object eval;
    private final Object maps;
    private final Object wrappers;
    private final Method parse;
    private final Method install;
    private final Method guts;
    private final Method wrapImport;
    private final Method setWrap;
    private final Method finish;
    private final Constructor<?> none;

    Imports(JShell shell, Units units) {
        this.shell = shell;
        this.units = units;
        try {
            Class<?> diagnostics = Class.forName("jdk.jshell.DiagList");
            eval = open(JShell.class.getDeclaredField("eval")).get(shell);
            maps = open(JShell.class.getDeclaredField("maps")).get(shell);
            wrappers = open(JShell.class.getDeclaredField("outerMap")).get(shell);
            parse = open(eval.getClass().getDeclaredMethod("processImport", String.class, String.class));
            install = open(maps.getClass().getDeclaredMethod("installSnippet", Snippet.class));
            guts = open(Snippet.class.getDeclaredMethod("guts"));
            wrapImport = open(wrappers.getClass().getDeclaredMethod("wrapImport", Class.forName("jdk.jshell.Wrap"), Snippet.class));
            setWrap = open(Snippet.class.getDeclaredMethod("setOuterWrap", Class.forName("jdk.jshell.OuterWrap")));
            finish = open(Snippet.class.getDeclaredMethod("setCompilationStatus", Snippet.Status.class, List.class, diagnostics));
            none = open(diagnostics.getDeclaredConstructor());
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell keeps its imports elsewhere", changed);
        }
        PACKAGES.forEach(name -> enter("import " + name + ".*;"));
    }

    private static <T extends AccessibleObject> T open(T member) {
        member.setAccessible(true);
        return member;
    }

    /** Enters an import that is known to compile. */
    void enter(String line) {
        try {
            for (Object snippet : (List<?>) parse.invoke(eval, line, line)) {
                install.invoke(maps, snippet);
                setWrap.invoke(snippet, wrapImport.invoke(wrappers, guts.invoke(snippet), snippet));
                finish.invoke(snippet, Snippet.Status.VALID, List.of(), none.newInstance());
            }
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell keeps its imports elsewhere", changed);
        }
    }

    /** An import line's path, without blanks; null for a static one, or what is no import. */
    static String path(String line) {
        Matcher match = LINE.matcher(line);
        return match.lookingAt() && match.group(1) == null ? match.group(2).replaceAll("\\s", "") : null;
    }

    /** Takes over an import of a compiled unit; a program's only where it changes no name's meaning for later cells. */
    void take(String line, boolean program) {
        String path = path(line);
        if (path == null ? program : units.declares(path) || (program && changes(path))) {
            return;
        }
        enter(line);
        shadow(path);
    }

    private boolean changes(String path) {
        if (path.endsWith(".*")) {
            return !conflicts(packageOf(path)).isEmpty();
        }
        String name = path.substring(path.lastIndexOf('.') + 1);
        return singles().containsKey(name) || stars().stream().anyMatch(other -> !other.equals(packageOf(path)) && names(other).contains(name));
    }

    /** After the import of a whole package: its classes win over those of the same name in packages imported before. */
    void shadow(String path) {
        if (path != null && path.endsWith(".*")) {
            String own = packageOf(path);
            conflicts(own).forEach(name -> enter("import " + own + "." + name + ";"));
        }
    }

    private Set<String> conflicts(String own) {
        Set<String> found = new LinkedHashSet<>();
        for (String other : stars()) {
            if (!other.equals(own) && !(PACKAGES.contains(own) && PACKAGES.contains(other))) {
                names(own).stream().filter(names(other)::contains).filter(name -> isPublic(own + "." + name)).forEach(found::add);
            }
        }
        return found;
    }

    /** The import lines, in one line, that help a unit which does not compile by itself. Its own imports and types win. */
    String forUnit(Units.Unit unit, boolean types) {
        Set<String> taken = new HashSet<>(unit.types());
        List<String> ownStars = new ArrayList<>();
        for (Shape.Item item : unit.items()) {
            String path = item.kind() == Shape.Kind.IMPORT ? path(unit.code().substring(item.start(), item.end())) : null;
            if (path != null && path.endsWith(".*")) {
                ownStars.add(packageOf(path));
            } else if (path != null) {
                taken.add(path.substring(path.lastIndexOf('.') + 1));
            }
        }
        Map<String, String> lines = new HashMap<>(singles());
        (types ? units.packaged() : Set.<String>of()).forEach(name -> lines.put(name.substring(name.lastIndexOf('.') + 1), "import " + name + ";"));
        ownStars.forEach(own -> conflicts(own).forEach(name -> lines.put(name, "import " + own + "." + name + ";")));
        lines.keySet().removeAll(taken);
        lines.values().removeIf(line -> line.contains(" " + Units.PACKAGE));
        StringBuilder text = new StringBuilder();
        shell.imports().filter(one -> one.isStatic() || one.fullname().endsWith("*")).forEach(one -> text.append(one.source().strip()).append(' '));
        lines.values().forEach(line -> text.append(line).append(' '));
        return text.toString();
    }

    private Map<String, String> singles() {
        Map<String, String> found = new HashMap<>();
        shell.imports().filter(one -> !one.isStatic() && !one.fullname().endsWith("*"))
            .forEach(one -> found.put(simple(one), "import " + one.fullname() + ";"));
        return found;
    }

    /** The simple name that an import gives; of a whole package "*". */
    static String simple(ImportSnippet one) {
        return one.fullname().substring(one.fullname().lastIndexOf('.') + 1);
    }

    private List<String> stars() {
        return shell.imports().filter(one -> !one.isStatic() && one.fullname().endsWith(".*")).map(one -> packageOf(one.fullname())).toList();
    }

    private static String packageOf(String path) {
        return path.substring(0, path.lastIndexOf('.'));
    }

    private static boolean isPublic(String name) {
        try {
            return Modifier.isPublic(Class.forName(name, false, ClassLoader.getPlatformClassLoader()).getModifiers());
        } catch (ClassNotFoundException | LinkageError missing) {
            return false;
        }
    }

    /** The simple names of a JDK package's top-level classes. */
    private Set<String> names(String packageName) {
        return listed.computeIfAbsent(packageName, name -> {
            Set<String> found = new HashSet<>();
            try (Stream<Path> modules = Files.list(JDK.getPath("/packages", name))) {
                for (Path module : modules.toList()) {
                    try (Stream<Path> files = Files.list(JDK.getPath("/modules", module.getFileName().toString(), name.replace('.', '/')))) {
                        files.map(file -> file.getFileName().toString()).filter(file -> file.endsWith(".class") && file.indexOf('$') < 0)
                            .forEach(file -> found.add(file.substring(0, file.length() - ".class".length())));
                    }
                }
            } catch (IOException none) {
                // no package of the JDK's
            }
            return found;
        });
    }
}
