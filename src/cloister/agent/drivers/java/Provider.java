package cloister.kernel;

import java.util.Map;
import jdk.jshell.spi.ExecutionControl;
import jdk.jshell.spi.ExecutionControlProvider;
import jdk.jshell.spi.ExecutionEnv;

/** Hands the one engine to JShell. */
record Provider(Engine engine) implements ExecutionControlProvider {
    @Override
    public String name() {
        return "cloister";
    }

    @Override
    public ExecutionControl generate(ExecutionEnv environment, Map<String, String> parameters) {
        return engine;
    }
}
