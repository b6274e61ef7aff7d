package cloister.kernel;

import java.util.HashMap;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * The type declarations of cells, each cell's compiled by javac as one file. Snippets know a class of unit n as REPL.unit<n>.Name and import it;
 * a new number for each unit, since JShell's compiler remembers what it has read. Classes have their real names when they are loaded.
 */
final class Units {
    static final String PACKAGE = "REPL.unit";
    private Compiler compiler;
    private final Map<String, byte[]> known = new HashMap<>(); // as other units see them
    private final Map<String, byte[]> visible = new TreeMap<>(); // as snippets see them
    private final Map<String, String> names = new HashMap<>(); // from the real name to the snippets', with slashes
    private final Map<String, Unit> owners = new HashMap<>(); // by the real names of top-level types
    private final Map<Unit, String> prefixes = new IdentityHashMap<>(); // of the names that snippets know a unit's types by
    private final Classes classes;
    private Imports imports;
    private int count;

    Units(Classes classes) {
        this.classes = classes;
    }

    void attach(Imports context) {
        imports = context;
    }

    Map<String, byte[]> visible() {
        return visible;
    }

    /** A cell's types: the name of the file that they are in, its text, and the items of that. */
    record Unit(String file, boolean program, String code, List<Shape.Item> items, Compiler.Result compiled) {
        Set<String> types() {
            return items.stream().filter(item -> item.kind() == Shape.Kind.TYPE).map(Shape.Item::name).collect(Collectors.toCollection(LinkedHashSet::new));
        }

        /** The real name of a top-level type. */
        String real(String type) {
            String path = items.get(0).kind() == Shape.Kind.PACKAGE ? code.substring(items.get(0).start(), items.get(0).end()) : "";
            String name = path.replaceFirst("package", "").replaceAll("[\\s;]", "");
            return name.isEmpty() ? type : name + "." + type;
        }
    }

    /**
     * Compiles a cell's types. A program comes as it stands first, so that no earlier cell changes what it means; only when it lacks names are the
     * context's imports added, then its types. Other cells belong to the context. Of several refusals one that leaves out errors of the first is told.
     */
    Unit compile(String file, boolean program, String code, List<Shape.Item> items) {
        if (compiler == null) {
            compiler = new Compiler();
        }
        Unit unit = new Unit(file, program, code, items, null);
        Compiler.Result alone = program ? compiler.compile(file, code, Map.of()) : compileWithContext(unit, known);
        Compiler.Result best = alone;
        if (program && alone.lacksNames()) {
            best = best.or(compileWithContext(unit, Map.of()));
            best = best.isWhole() ? best : best.or(compileWithContext(unit, known));
        } else if (!program && !alone.isWhole()) {
            best = best.or(compiler.compile(file, code, Map.of()));
        }
        return new Unit(file, program, code, items, best);
    }

    private Compiler.Result compileWithContext(Unit unit, Map<String, byte[]> types) {
        int start = unit.items().stream().filter(item -> item.kind() != Shape.Kind.PACKAGE).findFirst().orElseThrow().start();
        String added = imports.forUnit(unit, !types.isEmpty());
        String code = unit.code().substring(0, start) + added + unit.code().substring(start);
        Set<String> own = unit.types().stream().map(unit::real).collect(Collectors.toSet());
        Map<String, byte[]> others = new HashMap<>(types);
        others.keySet().removeIf(name -> own.contains(outermost(name)));
        Compiler.Result result = compiler.compile(unit.file(), code, others);
        Pattern line = Pattern.compile(Pattern.quote(added) + "([^\\n]*\\n) {0," + added.length() + "}");
        return new Compiler.Result(result.classes(), line.matcher(result.text()).replaceAll("$1"), result.errors());
    }

    /** Defines a compiled unit's classes and shows them to later cells; gives the loader in which it runs. */
    ClassLoader define(Unit unit) {
        Map<String, byte[]> compiled = unit.compiled().classes();
        Set<String> own = unit.types().stream().map(unit::real).collect(Collectors.toSet());
        known.keySet().removeIf(name -> own.contains(outermost(name)));
        compiled.forEach((name, bytes) -> known.put(name, Instrumenter.alias(bytes, Map.of())));
        Batch shown = classes.defineUnit(compiled);
        show(unit);
        return unit.program() && compiled.values().stream().anyMatch(Instrumenter::isReflective) ? classes.exact(compiled) : shown;
    }

    /** Compiles units of earlier cells again that use the types of this one, programs aside; gives the names of all types that changed. */
    Set<String> renewUsers(Unit unit) {
        Set<String> changed = new LinkedHashSet<>(unit.types());
        for (Unit user : Set.copyOf(owners.values())) {
            Unit kept = user == unit || user.program() ? null : remainder(user);
            Set<String> foreign = new HashSet<>(changed);
            foreign.removeAll(kept == null ? changed : kept.types());
            if (!foreign.isEmpty() && Session.words(foreign).matcher(kept.code()).find()) {
                Unit again = compile(kept.file(), false, kept.code(), kept.items());
                if (again.compiled().isWhole()) {
                    define(again);
                    changed.addAll(again.types());
                }
            }
        }
        return changed;
    }

    /** A unit without the types that others have declared since. */
    private Unit remainder(Unit unit) {
        List<Shape.Item> lost = unit.items().stream()
            .filter(item -> item.kind() == Shape.Kind.TYPE && owners.get(unit.real(item.name())) != unit).toList();
        List<Shape.Item> items = unit.items().stream().filter(item -> !lost.contains(item)).toList();
        return new Unit(unit.file(), false, Shape.without(unit.code(), lost), items, null);
    }

    private void show(Unit unit) {
        String prefix = PACKAGE + ++count + ".";
        Set<String> listed = unit.compiled().classes().keySet();
        for (String name : listed) {
            String alias = (prefix + name.substring(name.lastIndexOf('.') + 1)).replace('.', '/');
            names.put(name.replace('.', '/'), alias);
            classes.aliases().put(alias, name.replace('.', '/'));
        }
        for (String name : listed) {
            visible.put(names.get(name.replace('.', '/')).replace('/', '.'), Instrumenter.alias(unit.compiled().classes().get(name), names));
        }
        for (String type : unit.types()) {
            owners.put(unit.real(type), unit);
            imports.enter("import " + prefix + type + ";");
        }
        prefixes.put(unit, prefix);
        prefixes.entrySet().removeIf(shown -> !owners.containsValue(shown.getKey()) && hide(shown.getValue()));
    }

    /** Takes away what snippets see of a unit all of whose types have been declared anew. */
    private boolean hide(String prefix) {
        visible.keySet().removeIf(name -> name.startsWith(prefix));
        classes.aliases().keySet().removeIf(name -> name.startsWith(prefix.replace('.', '/')));
        return true;
    }

    /** Whether an import names a class, or all classes of a package, that units declare. */
    boolean declares(String path) {
        return path.endsWith(".*")
            ? owners.keySet().stream().anyMatch(name -> name.startsWith(path.substring(0, path.length() - 1)))
            : owners.containsKey(path);
    }

    /** The classes of units that have a package: they are imported for units without one. */
    Set<String> packaged() {
        Set<String> found = new HashSet<>(owners.keySet());
        found.removeIf(name -> name.indexOf('.') < 0);
        return found;
    }

    private static String outermost(String name) {
        int nested = name.indexOf('$', name.lastIndexOf('.') + 2);
        return nested < 0 ? name : name.substring(0, nested);
    }
}
