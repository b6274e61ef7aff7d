package cloister.kernel;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.StringWriter;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.JavaFileObject.Kind;
import javax.tools.SimpleJavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.StandardLocation;
import javax.tools.ToolProvider;

/** Compiles one source text with javac, from memory into memory. */
final class Compiler {
    /** An error: the first line of its message, and for an unknown name what that is. */
    private static final Pattern ERROR = Pattern.compile("^(?:[^\\n]+:\\d+: )?error: ([^\\n]*)(?:\\n[^\\n]*\\n *\\^\\n +symbol: +([^\\n]*))?", Pattern.MULTILINE);
    private static final List<String> OPTIONS = List.of("-proc:none", "-g", "-nowarn");
    private final JavaCompiler javac = ToolProvider.getSystemJavaCompiler();
    private final StandardJavaFileManager files = javac.getStandardFileManager(null, Locale.ENGLISH, StandardCharsets.UTF_8);

    /** What came of it: classes by name, or what javac prints, and the gist of each error in it. */
    record Result(Map<String, byte[]> classes, String text, List<String> errors) {
        boolean isWhole() {
            return errors.isEmpty();
        }

        /** Whether names were not found, which imports may give. */
        boolean lacksNames() {
            return errors.stream().anyMatch(error -> error.startsWith("cannot find symbol") || error.startsWith("package "));
        }

        /** The other result if it is whole, or has some of this one's errors and no others; else this one. */
        Result or(Result other) {
            return other.isWhole() || (other.errors.size() < errors.size() && errors.containsAll(other.errors)) ? other : this;
        }
    }

    /** Compiles against the JDK and the known classes, given by their names. */
    Result compile(String name, String code, Map<String, byte[]> known) {
        Map<String, Target> targets = new LinkedHashMap<>();
        StringWriter printed = new StringWriter();
        JavaFileManager memory = new Memory(files, targets, known);
        if (javac.getTask(printed, memory, null, OPTIONS, null, List.of(new Source(name, code))).call()) {
            Map<String, byte[]> classes = new LinkedHashMap<>();
            targets.forEach((className, target) -> classes.put(className, target.bytes.toByteArray()));
            return new Result(classes, "", List.of());
        }
        List<String> errors = new ArrayList<>();
        Matcher match = ERROR.matcher(printed.toString());
        while (match.find()) {
            errors.add(match.group(1) + (match.group(2) == null ? "" : ": " + match.group(2)));
        }
        return new Result(Map.of(), printed.toString().stripTrailing(), errors.isEmpty() ? List.of("the compiler gave up") : errors);
    }

    private static URI uri(String name, Kind kind) {
        return URI.create("memory:///" + name.replace('.', '/') + kind.extension);
    }

    /** The text to compile. A file may hold any number of public classes. */
    private static final class Source extends SimpleJavaFileObject {
        private final String name;
        private final String code;

        Source(String name, String code) {
            super(URI.create("memory:///" + name), Kind.SOURCE);
            this.name = name;
            this.code = code;
        }

        @Override
        public String getName() {
            return name;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return code;
        }

        @Override
        public boolean isNameCompatible(String simpleName, Kind kind) {
            return kind == Kind.SOURCE;
        }
    }

    private static final class Target extends SimpleJavaFileObject {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        Target(String name) {
            super(uri(name, Kind.CLASS), Kind.CLASS);
        }

        @Override
        public OutputStream openOutputStream() {
            return bytes;
        }
    }

    /** A class that code is compiled against. */
    static final class Known extends SimpleJavaFileObject {
        final String name;
        private final byte[] bytes;

        Known(String name, byte[] bytes) {
            super(uri(name, Kind.CLASS), Kind.CLASS);
            this.name = name;
            this.bytes = bytes;
        }

        @Override
        public InputStream openInputStream() {
            return new ByteArrayInputStream(bytes);
        }
    }

    /** The known classes that are directly in a package. */
    static List<JavaFileObject> in(String packageName, Map<String, byte[]> known) {
        List<JavaFileObject> found = new ArrayList<>();
        known.forEach((name, bytes) -> {
            if (name.substring(0, Math.max(0, name.lastIndexOf('.'))).equals(packageName)) {
                found.add(new Known(name, bytes));
            }
        });
        return found;
    }

    private static final class Memory extends ForwardingJavaFileManager<JavaFileManager> {
        private final Map<String, Target> targets;
        private final Map<String, byte[]> known;

        Memory(JavaFileManager files, Map<String, Target> targets, Map<String, byte[]> known) {
            super(files);
            this.targets = targets;
            this.known = known;
        }

        @Override
        public JavaFileObject getJavaFileForOutput(Location location, String className, Kind kind, FileObject sibling) {
            return targets.computeIfAbsent(className, Target::new);
        }

        @Override
        public Iterable<JavaFileObject> list(Location location, String packageName, Set<Kind> kinds, boolean recurse) throws IOException {
            if (location == StandardLocation.CLASS_PATH || location == StandardLocation.SOURCE_PATH) {
                return location == StandardLocation.CLASS_PATH && kinds.contains(Kind.CLASS) ? in(packageName, known) : List.of();
            }
            return super.list(location, packageName, kinds, recurse);
        }

        @Override
        public String inferBinaryName(Location location, JavaFileObject file) {
            return file instanceof Known one ? one.name : super.inferBinaryName(location, file);
        }

        @Override
        public boolean isSameFile(FileObject one, FileObject other) {
            return one == other;
        }
    }
}
