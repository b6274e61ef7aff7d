package cloister.kernel;

import java.lang.reflect.Field;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;

/**
 * JShell lists all classes of the JDK in the background when its source analysis is first asked for, to complete names. No client completes
 * names here, and the listing takes as much processor time as a program: this keeps its only thread busy with waiting.
 */
final class Indexer {
    private Indexer() { }

    static void hold() {
        try {
            Field pool = Class.forName("jdk.jshell.SourceCodeAnalysisImpl").getDeclaredField("INDEXER");
            pool.setAccessible(true);
            ((ExecutorService) pool.get(null)).submit(() -> {
                new CountDownLatch(1).await();
                return null;
            });
        } catch (ReflectiveOperationException changed) {
            throw new IllegalStateException("this JDK's JShell has another index", changed);
        }
    }
}
