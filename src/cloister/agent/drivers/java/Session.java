package cloister.kernel;

import cloister.kernel.Shape.Item;
import cloister.kernel.Shape.Kind;
import cloister.kernel.Units.Unit;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.ImportSnippet;
import jdk.jshell.JShell;
import jdk.jshell.MethodSnippet;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.SourceCodeAnalysis.CompletionInfo;
import jdk.jshell.TypeDeclSnippet;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.VarSnippet;

/** The JShell state of a context, and one run of code in it: snippet after snippet, until one fails. */
final class Session {
    private final Lines lines = new Lines();
    private final Classes classes = new Classes(lines);
    private final Engine engine = new Engine(classes);
    private final Units units = new Units(classes);
    private final Imports imports;
    private final JShell shell;
    private final SourceCodeAnalysis analysis;
    private final Channel channel;
    private final List<Snippet> declared = new ArrayList<>();
    private int count;
    private int id;

    Session(Channel channel) {
        this.channel = channel;
        shell = JShell.builder().executionEngine(new Provider(engine), Map.of())
            .fileManager(files -> new Visible(files, units.visible())).build();
        lines.attach(shell);
        Indexer.hold();
        analysis = shell.sourceCodeAnalysis();
        imports = new Imports(shell, units);
        units.attach(imports);
    }

    Engine engine() {
        return engine;
    }

    /** How many cells were run. */
    int count() {
        return count;
    }

    /** Runs a cell. Messages go to the channel. */
    void run(int runId, String source) {
        id = runId;
        count++;
        declared.clear();
        engine.begin();
        try {
            List<Item> items = Shape.of(source);
            if (items.stream().noneMatch(item -> item.kind() == Kind.TYPE) || !runUnit(source, items)) {
                runSnippets(source);
            }
        } finally {
            engine.end();
            reportStop();
        }
    }

    private void runSnippets(String source) {
        if (evaluate(Program.withoutPackage(source))) {
            startProgram();
        }
    }

    /** Compiles a cell's types as one unit and runs the cell; false: they need what only snippets can have, and nothing was done. */
    private boolean runUnit(String source, List<Item> items) {
        String program = Program.file(source, items);
        List<Item> others = items.stream().filter(item -> item.kind() == Kind.OTHER).toList();
        Unit unit = units.compile(program == null ? "cell-" + count : program, program != null, Shape.without(source, others), items);
        if (!unit.compiled().isWhole()) {
            if (!others.isEmpty() || needsSnippets(unit.compiled())) {
                return false;
            }
            channel.send("error", id, "name", "CompilationError", "value", unit.compiled().errors().get(0), "traceback", unit.compiled().text());
            return true;
        }
        unit.types().forEach(this::forget);
        ClassLoader loader = units.define(unit);
        Set<String> changed = units.renewUsers(unit);
        if (others.isEmpty()) {
            items.stream().filter(item -> item.kind() == Kind.IMPORT)
                .forEach(item -> imports.take(source.substring(item.start(), item.end()), program != null));
        }
        refresh(changed);
        if (!others.isEmpty()) {
            runSnippets(Shape.without(source, items.stream().filter(item -> item.kind() == Kind.TYPE || item.kind() == Kind.PACKAGE).toList()));
        }
        if (others.isEmpty() || (!isStopped() && Program.isDeclarations(declared))) {
            start(unit, loader);
        }
        return true;
    }

    /** Calls the main method of a unit, if it has one. */
    private void start(Unit unit, ClassLoader loader) {
        try {
            List<Class<?>> types = new ArrayList<>();
            for (String type : unit.types()) {
                types.add(Class.forName(unit.real(type), false, loader));
            }
            MethodHandle main = Program.entry(types);
            if (main != null) {
                engine.callMain(main, loader);
                if (engine.thrown != null) {
                    fail(null);
                }
            }
        } catch (ReflectiveOperationException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** Drops the snippet that declares a type, since another declaration takes its name. */
    private void forget(String type) {
        shell.snippets().filter(one -> one instanceof TypeDeclSnippet declaration && declaration.name().equals(type) && shell.status(one).isActive())
            .toList().forEach(shell::drop);
    }

    /** Compiles again what earlier cells declared with types that were declared anew; variables of them become null. */
    private void refresh(Set<String> types) {
        Pattern mention = words(types);
        for (Snippet snippet : shell.snippets().filter(one -> shell.status(one).isActive() && mention.matcher(one.source()).find()).toList()) {
            if (snippet instanceof VarSnippet variable && mention.matcher(variable.typeName()).find()) {
                shell.eval(Traces.names(variable.typeName()) + " " + variable.name() + ";");
            } else if (snippet instanceof MethodSnippet || snippet instanceof TypeDeclSnippet) {
                shell.drop(snippet);
                lines.remember(snippet.source(), lines.origin(snippet));
                shell.eval(snippet.source());
            }
        }
    }

    static Pattern words(Collection<String> names) {
        return Pattern.compile("\\b(?:" + String.join("|", names.stream().map(Pattern::quote).toList()) + ")\\b");
    }

    /** Whether what the compiler did not find are variables, methods or types that earlier cells declared as snippets. */
    private boolean needsSnippets(Compiler.Result refused) {
        List<String> names = shell.snippets().filter(one -> one instanceof DeclarationSnippet && shell.status(one).isActive())
            .map(one -> ((DeclarationSnippet) one).name()).toList();
        return !names.isEmpty() && refused.errors().stream().anyMatch(message -> message.startsWith("cannot find symbol") && words(names).matcher(message).find());
    }

    /** Evaluates snippets until one fails; whether none did. */
    private boolean evaluate(String code) {
        String rest = code;
        while (!rest.isBlank() && !isStopped()) {
            CompletionInfo info = analysis.analyzeCompletion(rest);
            if (info.completeness() == Completeness.EMPTY) {
                return true;
            }
            boolean whole = info.completeness().isComplete() || info.completeness() == Completeness.CONSIDERED_INCOMPLETE;
            String next = whole ? info.remaining() : "";
            String written = rest.substring(0, rest.length() - next.length());
            String source = (whole ? info.source() : written).stripLeading();
            int start = code.length() - written.stripLeading().length() - next.length();
            lines.remember(source.stripTrailing(), new Lines.Origin(count, lineAt(code, start)));
            if (!evaluateOne(source.stripTrailing(), written, next.isBlank())) {
                return false;
            }
            rest = next;
        }
        return true;
    }

    private static int lineAt(String text, int position) {
        return (int) text.substring(0, position).chars().filter(c -> c == '\n').count();
    }

    private boolean evaluateOne(String source, String written, boolean last) {
        String imported = Imports.path(source);
        if (imported != null && units.declares(imported)) {
            return true; // snippets see the classes of units without it
        }
        List<String> hidden = settleNames(source, imported);
        for (SnippetEvent event : shell.eval(source)) {
            if (event.causeSnippet() != null) {
                continue; // an earlier declaration that this one completes
            }
            if (event.status() == Snippet.Status.REJECTED) {
                reject(event.snippet());
                hidden.forEach(imports::enter);
                return false;
            }
            declared.add(event.snippet());
            imports.shadow(imported);
            if (event.exception() != null) {
                fail(event.exception() instanceof UnresolvedReferenceException missing ? missing : null);
                return false;
            }
            if (last && isShown(event.snippet(), written)) {
                channel.send("result", id, "main", true, "data", Map.of("text/plain", Values.text(engine.value)), "extra", Map.of());
            }
        }
        return true;
    }

    /** Makes room for a name that is about to be declared or imported, since the latest wins; gives the imports that it takes away. */
    private List<String> settleNames(String source, String imported) {
        List<String> hidden = new ArrayList<>();
        if (imported != null && !imported.endsWith(".*")) {
            forget(imported.substring(imported.lastIndexOf('.') + 1));
        }
        for (Item item : imported == null ? Shape.of(source) : List.<Item>of()) {
            for (ImportSnippet one : shell.imports().filter(one -> !one.isStatic() && Imports.simple(one).equals(item.name())).toList()) {
                hidden.add("import " + one.fullname() + ";");
                shell.drop(one);
            }
        }
        return hidden;
    }

    /** Expressions are shown, unless they are statements: calls, assignments and increments that end with a semicolon. */
    private boolean isShown(Snippet snippet, String written) {
        if (isStopped() || written.stripTrailing().endsWith(";")) {
            return false;
        }
        return switch (snippet.subKind()) {
            case TEMP_VAR_EXPRESSION_SUBKIND, VAR_VALUE_SUBKIND, OTHER_EXPRESSION_SUBKIND, ASSIGNMENT_SUBKIND -> engine.value != null
                || snippet.subKind() != Snippet.SubKind.OTHER_EXPRESSION_SUBKIND;
            default -> false;
        };
    }

    private void startProgram() {
        String call = Program.start(declared);
        for (Snippet snippet : declared) {
            if (snippet instanceof DeclarationSnippet declaration && isUnresolved(declaration)) {
                if (call != null) {
                    reject(snippet);
                    return;
                }
                channel.sendText("stderr", id, "declared, but not usable until this is: " + missing(declaration) + "\n");
            }
        }
        if (call != null && !isStopped()) {
            evaluateOne(call + ";", call + ";", true);
        }
    }

    private boolean isUnresolved(DeclarationSnippet snippet) {
        Snippet.Status status = shell.status(snippet);
        return status == Snippet.Status.RECOVERABLE_DEFINED || status == Snippet.Status.RECOVERABLE_NOT_DEFINED;
    }

    private String missing(DeclarationSnippet snippet) {
        return String.join(", ", shell.unresolvedDependencies(snippet).toList());
    }

    private void fail(UnresolvedReferenceException missing) {
        if (missing != null) {
            reject(missing.getSnippet());
        } else if (!isStopped()) {
            Throwable thrown = engine.thrown;
            String value = thrown.getMessage() == null ? "" : Traces.names(thrown.getMessage());
            channel.send("error", id, "name", Traces.names(thrown.getClass().getName()), "value", value, "traceback", Traces.render(thrown));
        }
    }

    /** Reports what is wrong with a snippet, each error with its line and a mark below the column. */
    private void reject(Snippet snippet) {
        List<String> found = new ArrayList<>();
        for (Diag diagnostic : shell.diagnostics(snippet).filter(Diag::isError).toList()) {
            String message = Traces.names(diagnostic.getMessage(Locale.ENGLISH)).replaceFirst("\n *location: class *$", "");
            found.add(locate(snippet, diagnostic.getPosition()) + message);
        }
        if (found.isEmpty() && snippet instanceof DeclarationSnippet declaration) {
            shell.unresolvedDependencies(declaration).forEach(name -> found.add(locateName(declaration, name) + "cannot find symbol: " + name));
        }
        String text = found.isEmpty() ? "the code does not compile" : String.join("\n", found);
        String value = found.isEmpty() ? text : found.get(0).substring(found.get(0).indexOf("^\n") + 2).lines().findFirst().orElse(text);
        channel.send("error", id, "name", "CompilationError", "value", value, "traceback", text);
    }

    private String locateName(Snippet snippet, String dependency) {
        String name = dependency.replaceFirst("\\(.*", "").replaceFirst(".*[ .]", "");
        Matcher match = Pattern.compile("\\b" + Pattern.quote(name) + "\\b").matcher(snippet.source());
        return locate(snippet, match.find() ? match.start() : 0);
    }

    private String locate(Snippet snippet, long position) {
        String source = snippet.source();
        int at = Math.clamp(position, 0, source.length());
        int start = source.lastIndexOf('\n', at - 1) + 1;
        int end = source.indexOf('\n', at);
        String line = source.substring(start, end < 0 ? source.length() : end);
        Lines.Origin origin = lines.origin(snippet);
        int number = origin.line() + lineAt(source, at) + 1;
        String place = "cell-" + origin.cell() + ":" + number + ":" + (at - start + 1);
        return place + ": error:\n" + line + "\n" + " ".repeat(at - start) + "^\n";
    }

    private boolean isStopped() {
        return engine.isInterrupted() || engine.exitCode() != null;
    }

    private void reportStop() {
        Integer exit = engine.exitCode();
        if (engine.isInterrupted()) {
            channel.send("error", id, "name", "KeyboardInterrupt", "value", "interrupted", "traceback", "KeyboardInterrupt: interrupted");
        } else if (exit != null && exit != 0) {
            String value = "exit code " + exit;
            channel.send("error", id, "name", "SystemExit", "value", value, "traceback", "SystemExit: " + value);
        }
    }
}
