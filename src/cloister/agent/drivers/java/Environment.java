package cloister.kernel;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;

/**
 * The variables of one run, visible to System.getenv, to child processes and, as the official service has it, to System.getProperty.
 * The JDK has no way to change its own environment, so this changes the map behind it; {@link #restore} puts everything back.
 */
final class Environment {
    private static final Map<Object, Object> MAP;
    private static final Method VARIABLE;
    private static final Method VALUE;

    static {
        try {
            Class<?> owner = Class.forName("java.lang.ProcessEnvironment");
            Field field = owner.getDeclaredField("theEnvironment");
            field.setAccessible(true);
            @SuppressWarnings("unchecked")
            Map<Object, Object> map = (Map<Object, Object>) field.get(null);
            MAP = map;
            VARIABLE = factory("java.lang.ProcessEnvironment$Variable");
            VALUE = factory("java.lang.ProcessEnvironment$Value");
        } catch (ReflectiveOperationException broken) {
            throw new ExceptionInInitializerError(broken);
        }
    }

    private final Map<String, String> variables = new HashMap<>();
    private final Map<String, String> properties = new HashMap<>();

    private static Method factory(String type) throws ReflectiveOperationException {
        Method method = Class.forName(type).getDeclaredMethod("valueOf", String.class);
        method.setAccessible(true);
        return method;
    }

    /** Makes the process's own variables readable as properties, where no property has the name. */
    static void publish() {
        System.getenv().forEach((name, value) -> {
            if (!name.isEmpty() && System.getProperty(name) == null) {
                System.setProperty(name, value);
            }
        });
    }

    /** Sets the variables of a run: the "envs" of an execute message, an object of strings or null. */
    Environment(Object envs) {
        if (envs instanceof Map<?, ?> values) {
            try {
                values.forEach((name, value) -> override((String) name, (String) value));
            } catch (IllegalArgumentException refused) {
                restore();
                throw refused;
            }
        }
    }

    private void override(String name, String value) {
        String before = System.getenv(name);
        set(name, value);
        variables.put(name, before);
        properties.put(name, System.getProperty(name));
        System.setProperty(name, value);
    }

    void restore() {
        variables.forEach(Environment::set);
        properties.forEach((name, value) -> {
            if (value == null) {
                System.clearProperty(name);
            } else {
                System.setProperty(name, value);
            }
        });
    }

    private static void set(String name, String value) {
        try {
            if (value == null) {
                MAP.remove(VARIABLE.invoke(null, name));
            } else {
                MAP.put(VARIABLE.invoke(null, name), VALUE.invoke(null, value));
            }
        } catch (ReflectiveOperationException refused) {
            throw new IllegalArgumentException("environment variable " + name + ": " + refused.getCause().getMessage(), refused);
        }
    }
}
