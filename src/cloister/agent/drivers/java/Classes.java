package cloister.kernel;

import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import jdk.jshell.spi.ExecutionControl;

/** The classes of a context: which batch has the newest of each name. It must not run them. */
final class Classes {
    private final Map<String, Batch> newest = new ConcurrentHashMap<>();
    private final Base base = new Base();
    private final Lines lines;
    private final Map<String, String> aliases = new HashMap<>();

    Classes(Lines lines) {
        this.lines = lines;
    }

    /** What is above all batches: the JDK and, for resources, the working directory. */
    ClassLoader base() {
        return base;
    }

    /** The batch that has the newest class of a name, or null. */
    Batch owner(String name) {
        return newest.get(name);
    }

    /** Whether user code defined a class of this name. */
    boolean isUser(String name) {
        return newest.containsKey(name);
    }

    /** From a name by which snippets know a class of a unit to its real one, both with slashes. */
    Map<String, String> aliases() {
        return aliases;
    }

    /** Defines a unit's classes: what is not private becomes public, so that later cells reach it. */
    Batch defineUnit(Map<String, byte[]> classes) {
        Map<String, byte[]> checked = new HashMap<>();
        classes.forEach((name, bytes) -> checked.put(name, Instrumenter.unit(bytes, true)));
        return enter(checked);
    }

    /** A second copy of a unit's classes, with the modifiers that they were written with; no other code sees it. */
    Batch exact(Map<String, byte[]> classes) {
        Map<String, byte[]> checked = new HashMap<>();
        classes.forEach((name, bytes) -> checked.put(name, Instrumenter.unit(bytes, false)));
        return new Batch(this, checked);
    }

    /** Defines what JShell compiled. */
    void defineSnippets(ExecutionControl.ClassBytecodes[] classes) throws ExecutionControl.ClassInstallException {
        Map<String, byte[]> checked = new HashMap<>();
        for (ExecutionControl.ClassBytecodes one : classes) {
            checked.put(one.name(), Instrumenter.snippet(one.bytecodes(), lines, lines.wrapper(one.name()), aliases));
        }
        Batch batch = enter(checked);
        boolean[] loaded = new boolean[classes.length];
        try {
            for (int i = 0; i < classes.length; i++) {
                batch.loadClass(classes[i].name()).getDeclaredMethods();
                loaded[i] = true;
            }
        } catch (ClassNotFoundException | LinkageError refused) {
            throw new ExecutionControl.ClassInstallException("load: " + refused.getMessage(), loaded);
        }
    }

    private Batch enter(Map<String, byte[]> classes) {
        Batch batch = new Batch(this, classes);
        classes.keySet().forEach(name -> newest.put(name, batch));
        return batch;
    }

    /** The newest class of a name. */
    Class<?> find(String name) throws ClassNotFoundException {
        Batch owner = owner(name);
        return owner == null ? base.loadClass(name) : owner.loadClass(name);
    }

    void addPath(String path) throws ExecutionControl.InternalException {
        try {
            for (String part : path.split(java.io.File.pathSeparator)) {
                base.addURL(Path.of(part).toUri().toURL());
            }
        } catch (MalformedURLException refused) {
            throw new ExecutionControl.InternalException(refused.toString());
        }
    }

    private static final class Base extends URLClassLoader {
        Base() {
            super(new URL[0], Classes.class.getClassLoader());
            try {
                addURL(Path.of("").toUri().toURL());
            } catch (MalformedURLException impossible) {
                throw new IllegalStateException(impossible);
            }
        }

        @Override
        protected void addURL(URL url) {
            super.addURL(url);
        }
    }
}
