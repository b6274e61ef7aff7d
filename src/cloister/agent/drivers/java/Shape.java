package cloister.kernel;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;

/**
 * Cuts a cell into its top-level items without compiling it: the package line, imports, type declarations, and everything else. A type declaration
 * that is not closed reaches to the end. Comments and blanks between items belong to none.
 */
final class Shape {
    /** What an item is. */
    enum Kind { PACKAGE, IMPORT, TYPE, OTHER }

    /** Text from start to end (not included); the name is that of a type, else empty. */
    record Item(Kind kind, int start, int end, String name, boolean isPublic) { }

    private static final Set<String> MODIFIERS = Set.of(
        "public", "protected", "private", "static", "final", "abstract", "strictfp", "sealed", "non");
    private static final Set<String> TYPES = Set.of("class", "interface", "enum", "record");
    private final String code;
    private final List<Item> items = new ArrayList<>();
    private int at;

    private Shape(String code) {
        this.code = code;
    }

    static List<Item> of(String code) {
        Shape shape = new Shape(code);
        while (shape.skipBlank()) {
            shape.item();
        }
        return shape.items;
    }

    /** The code with these items blanked, its lines and columns kept. */
    static String without(String code, List<Item> items) {
        StringBuilder text = new StringBuilder(code);
        for (Item item : items) {
            for (int i = item.start(); i < item.end(); i++) {
                if (text.charAt(i) != '\n' && text.charAt(i) != '\r') {
                    text.setCharAt(i, ' ');
                }
            }
        }
        return text.toString();
    }

    private void item() {
        int start = at;
        Item type = declaration(start);
        if (type != null) {
            items.add(type);
            return;
        }
        at = start;
        String word = word();
        at = start;
        body(false);
        if (!code.substring(start, at).equals(";")) {
            items.add(new Item(kind(word), start, at, "", false));
        }
    }

    private static Kind kind(String word) {
        return switch (word) {
            case "package" -> Kind.PACKAGE;
            case "import" -> Kind.IMPORT;
            default -> Kind.OTHER;
        };
    }

    /** The type declaration that begins here, or null. */
    private Item declaration(int start) {
        boolean isPublic = false;
        while (skipBlank()) {
            if (code.charAt(at) == '@' && !code.startsWith("@interface", at)) {
                annotation();
                continue;
            }
            boolean annotationType = code.charAt(at) == '@';
            at += annotationType ? 1 : 0;
            String word = word();
            if (TYPES.contains(word)) {
                return named(start, word, isPublic);
            }
            if (!MODIFIERS.contains(word)) {
                return null;
            }
            isPublic |= word.equals("public");
            if (word.equals("non")) {
                if (!code.startsWith("-sealed", at)) {
                    return null;
                }
                at += "-sealed".length();
            }
        }
        return null;
    }

    private Item named(int start, String keyword, boolean isPublic) {
        skipBlank();
        String name = word();
        skipBlank();
        boolean record = at < code.length() && (code.charAt(at) == '(' || code.charAt(at) == '<');
        if (name.isEmpty() || (keyword.equals("record") && !record)) {
            return null;
        }
        body(true);
        return new Item(Kind.TYPE, start, at, name, isPublic);
    }

    private void annotation() {
        do {
            at++; // the @, or a dot of the name
            skipBlank();
            word();
            skipBlank();
        } while (at < code.length() && code.charAt(at) == '.');
        if (at < code.length() && code.charAt(at) == '(') {
            int depth = 0;
            do {
                depth += depthOf(code.charAt(at));
                token();
            } while (at < code.length() && depth > 0);
        }
    }

    /** Goes to the end of an item: after the semicolon, or the brace that closes it. A type declaration has no semicolon of its own. */
    private void body(boolean type) {
        int depth = 0;
        while (at < code.length()) {
            char c = code.charAt(at);
            depth = Math.max(0, depth + depthOf(c));
            token();
            if (depth == 0 && (c == '}' || (c == ';' && !type))) {
                return;
            }
        }
    }

    private static int depthOf(char c) {
        return switch (c) {
            case '{', '(', '[' -> 1;
            case '}', ')', ']' -> -1;
            default -> 0;
        };
    }

    private String word() {
        int start = at;
        while (at < code.length() && Character.isJavaIdentifierPart(code.charAt(at))) {
            at++;
        }
        return code.substring(start, at);
    }

    /** Skips blanks and comments; whether anything follows. */
    private boolean skipBlank() {
        while (at < code.length() && (Character.isWhitespace(code.charAt(at)) || isComment())) {
            if (isComment()) {
                token();
            } else {
                at++;
            }
        }
        return at < code.length();
    }

    private boolean isComment() {
        return code.startsWith("//", at) || code.startsWith("/*", at);
    }

    /** Skips one comment, literal or character. */
    private void token() {
        if (code.startsWith("//", at)) {
            to("\n", at);
        } else if (code.startsWith("/*", at)) {
            to("*/", at + 2);
        } else if (code.startsWith("\"\"\"", at)) {
            quoted("\"\"\"");
        } else if (code.charAt(at) == '"' || code.charAt(at) == '\'') {
            quoted(code.substring(at, at + 1));
        } else {
            at++;
        }
    }

    private void to(String mark, int from) {
        int found = code.indexOf(mark, from);
        at = found < 0 ? code.length() : found + mark.length();
    }

    private void quoted(String mark) {
        at += mark.length();
        while (at < code.length() && !code.startsWith(mark, at)) {
            if (mark.length() == 1 && code.charAt(at) == '\n') {
                return; // not closed: javac complains
            }
            at += code.charAt(at) == '\\' ? 2 : 1;
        }
        at = Math.min(code.length(), at + mark.length());
    }
}
