package cloister.kernel;

import java.io.BufferedInputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.util.Locale;
import java.util.TimeZone;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** What a program may change of the JVM that is the next cell's too. A program begins with a fresh System.in and the first numbers of threads and pools. */
final class Globals {
    private final PrintStream out = System.out;
    private final PrintStream err = System.err;
    private final InputStream in = System.in;
    private final Locale locale = Locale.getDefault();
    private final TimeZone zone = TimeZone.getDefault();
    private final Thread.UncaughtExceptionHandler handler = Thread.getDefaultUncaughtExceptionHandler();

    Globals() {
        System.setIn(new BufferedInputStream(InputStream.nullInputStream())); // the kernel's own is empty too, but a program may close it
        resetNumbers();
    }

    void restore() {
        System.setOut(out);
        System.setErr(err);
        System.setIn(in);
        Locale.setDefault(locale);
        TimeZone.setDefault(zone);
        Thread.setDefaultUncaughtExceptionHandler(handler);
    }

    /** Thread-0 and pool-1-thread-1 are the first of each program. */
    private static void resetNumbers() {
        try {
            Field next = Class.forName("java.lang.Thread$ThreadNumbering").getDeclaredField("next");
            next.setAccessible(true);
            next.setInt(null, 0);
            Field pools = Class.forName(Executors.class.getName() + "$DefaultThreadFactory").getDeclaredField("poolNumber");
            pools.setAccessible(true);
            ((AtomicInteger) pools.get(null)).set(1);
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK numbers threads elsewhere", changed);
        }
    }
}
