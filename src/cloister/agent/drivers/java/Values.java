package cloister.kernel;

import java.lang.reflect.Array;

/** Values as text. */
final class Values {
    private static final int ARRAY_LIMIT = 1000;

    private Values() { }

    /** What toString says, arrays element by element. */
    static String text(Object value) {
        if (value == null || !value.getClass().isArray()) {
            return Traces.names(String.valueOf(value));
        }
        StringBuilder text = new StringBuilder("[");
        int length = Array.getLength(value);
        for (int i = 0; i < length && i < ARRAY_LIMIT; i++) {
            text.append(i == 0 ? "" : ", ").append(text(Array.get(value, i)));
        }
        return text.append(length > ARRAY_LIMIT ? ", … " + (length - ARRAY_LIMIT) + " more]" : "]").toString();
    }
}
