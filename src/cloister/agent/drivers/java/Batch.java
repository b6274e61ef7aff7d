package cloister.kernel;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.util.Map;

/**
 * The loader of classes that were compiled together: a unit, or a snippet. Its own classes come first, then the newest of the context's, then the
 * JDK's. A name may be defined again by a later batch, which leaves this one as it is.
 */
final class Batch extends ClassLoader {
    static {
        registerAsParallelCapable();
    }

    private final Classes context;
    private final Map<String, byte[]> own;

    /** Takes classes that are instrumented already, by name. */
    Batch(Classes context, Map<String, byte[]> own) {
        super(context.base());
        this.context = context;
        this.own = own;
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
        synchronized (getClassLoadingLock(name)) {
            Class<?> loaded = findLoadedClass(name);
            if (loaded != null) {
                return loaded;
            }
            byte[] code = own.get(name);
            if (code != null) {
                return defineClass(name, code, 0, code.length);
            }
        }
        Batch newest = context.owner(name);
        return newest == null || newest == this ? super.loadClass(name, resolve) : newest.loadClass(name, resolve);
    }

    @Override
    public InputStream getResourceAsStream(String name) {
        byte[] code = name.endsWith(".class") ? own.get(name.substring(0, name.length() - 6).replace('/', '.')) : null;
        return code == null ? super.getResourceAsStream(name) : new ByteArrayInputStream(code);
    }
}
