package cloister.kernel;

import java.io.IOException;
import java.io.InputStream;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.Arrays;

/**
 * The main thread of user code. It is loaded as a hidden class, whose frames the JVM leaves out of every stack trace: a trace begins with the
 * user's own method, whoever prints it.
 */
class Starter extends Thread {
    private static MethodHandle constructor;
    private final MethodHandle code;
    private final Outcome outcome;

    /** What the code returned or threw. */
    static final class Outcome {
        final boolean program;
        Object value;
        Throwable thrown;

        Outcome(boolean program) {
            this.program = program;
        }
    }

    Starter(ThreadGroup group, MethodHandle code, Outcome outcome) {
        super(group, "main");
        this.code = code;
        this.outcome = outcome;
    }

    /** A thread, not started yet, that calls a handle without parameters. */
    static Thread of(ThreadGroup group, MethodHandle code, Outcome outcome) {
        try {
            return (Thread) hidden().invoke(group, code.asType(MethodType.methodType(Object.class)), outcome);
        } catch (Throwable broken) {
            throw new IllegalStateException(broken);
        }
    }

    private static MethodHandle hidden() throws IOException, ReflectiveOperationException {
        if (constructor == null) {
            try (InputStream bytes = Starter.class.getResourceAsStream("Starter.class")) {
                MethodHandles.Lookup own = MethodHandles.lookup().defineHiddenClass(bytes.readAllBytes(), false);
                constructor = own.findConstructor(own.lookupClass(), MethodType.methodType(void.class, ThreadGroup.class, MethodHandle.class, Outcome.class));
            }
        }
        return constructor;
    }

    @Override
    public void run() {
        try {
            outcome.value = code.invoke();
        } catch (Throwable thrown) {
            outcome.thrown = withoutHandles(thrown);
            UncaughtExceptionHandler own = outcome.program ? getDefaultUncaughtExceptionHandler() : null;
            if (own != null && !(thrown instanceof Guard.Stopped)) {
                own.uncaughtException(this, thrown);
            }
        }
    }

    /** An error of the class's own initialisation has the frames of the handle that began it, which no JVM's launcher would show. */
    private static Throwable withoutHandles(Throwable thrown) {
        for (Throwable one = thrown; one != null; one = one.getCause()) {
            StackTraceElement[] frames = one.getStackTrace();
            int count = frames.length;
            while (count > 0 && isHandle(frames[count - 1].getClassName())) {
                count--;
            }
            if (count < frames.length) {
                one.setStackTrace(Arrays.copyOf(frames, count));
            }
        }
        return thrown;
    }

    private static boolean isHandle(String className) {
        return className.startsWith("java.lang.invoke.") || className.equals("jdk.internal.misc.Unsafe");
    }
}
