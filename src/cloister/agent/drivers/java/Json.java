package cloister.kernel;

import java.util.HashMap;
import java.util.Map;

/** Reading and writing of the protocol's flat JSON: objects of strings, numbers, booleans, null and objects of the same. No arrays: the protocol has none. */
final class Json {
    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Parses one object; numbers come as Double. Throws IllegalArgumentException when it is not one. */
    static Map<String, Object> parse(String text) {
        Json reader = new Json(text);
        reader.space();
        return reader.object();
    }

    /** Appends a JSON string; lone surrogates become U+FFFD, so that the line is valid UTF-8. */
    static void quote(StringBuilder out, CharSequence text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c == '\n') {
                out.append("\\n");
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else if (Character.isHighSurrogate(c) && i + 1 < text.length() && Character.isLowSurrogate(text.charAt(i + 1))) {
                out.append(c).append(text.charAt(++i));
            } else {
                out.append(Character.isSurrogate(c) ? '\ufffd' : c);
            }
        }
        out.append('"');
    }

    private Map<String, Object> object() {
        Map<String, Object> found = new HashMap<>();
        expect('{');
        while (peek() != '}') {
            String key = string();
            expect(':');
            found.put(key, value());
            if (peek() == ',') {
                expect(',');
            }
        }
        expect('}');
        return found;
    }

    private Object value() {
        return switch (peek()) {
            case '{' -> object();
            case '"' -> string();
            default -> scalar();
        };
    }

    private Object scalar() {
        int start = at;
        while (at < text.length() && ",}\t\n\r ".indexOf(text.charAt(at)) < 0) {
            at++;
        }
        String word = text.substring(start, at);
        return switch (word) {
            case "null" -> null;
            case "true" -> Boolean.TRUE;
            case "false" -> Boolean.FALSE;
            default -> Double.valueOf(word);
        };
    }

    private String string() {
        expect('"');
        StringBuilder found = new StringBuilder();
        for (char c = text.charAt(at++); c != '"'; c = text.charAt(at++)) {
            found.append(c == '\\' ? escaped() : c);
        }
        space();
        return found.toString();
    }

    private char escaped() {
        char c = text.charAt(at++);
        return switch (c) {
            case 'n' -> '\n';
            case 't' -> '\t';
            case 'r' -> '\r';
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'u' -> {
                at += 4;
                yield (char) Integer.parseInt(text.substring(at - 4, at), 16);
            }
            default -> c;
        };
    }

    private char peek() {
        space();
        return text.charAt(at);
    }

    private void expect(char wanted) {
        if (peek() != wanted) {
            throw new IllegalArgumentException("expected " + wanted + " at " + at);
        }
        at++;
        space();
    }

    private void space() {
        while (at < text.length() && Character.isWhitespace(text.charAt(at))) {
            at++;
        }
    }
}
