package cloister.kernel;

import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.function.UnaryOperator;
import jdk.internal.org.objectweb.asm.ClassReader;
import jdk.internal.org.objectweb.asm.ClassVisitor;
import jdk.internal.org.objectweb.asm.ClassWriter;
import jdk.internal.org.objectweb.asm.FieldVisitor;
import jdk.internal.org.objectweb.asm.Label;
import jdk.internal.org.objectweb.asm.MethodVisitor;
import jdk.internal.org.objectweb.asm.Opcodes;
import jdk.internal.org.objectweb.asm.commons.ClassRemapper;
import jdk.internal.org.objectweb.asm.commons.Remapper;
import jdk.internal.org.objectweb.asm.commons.SimpleRemapper;

/** Puts calls of {@link Guard} into user classes as they are loaded, so that any loop can be stopped: JDK 21 has no other way to end a thread. */
final class Instrumenter {
    private static final String GUARD = "cloister/kernel/Guard";
    /** Methods of the JDK whose calls go to the Guard's of the same name; the receiver's descriptor becomes its first parameter's. */
    private static final Map<String, String> REPLACED = Map.of(
        "java/lang/System.exit", "", "java/lang/Runtime.exit", "Ljava/lang/Runtime;", "java/lang/Runtime.halt", "Ljava/lang/Runtime;",
        "java/lang/Runtime.exec", "Ljava/lang/Runtime;", "java/lang/ProcessBuilder.start", "Ljava/lang/ProcessBuilder;",
        "java/lang/ProcessBuilder.startPipeline", "", "java/lang/Runtime.addShutdownHook", "Ljava/lang/Runtime;",
        "java/lang/Runtime.removeShutdownHook", "Ljava/lang/Runtime;");

    private Instrumenter() { }

    /** Whether a class may look at modifiers: its program then runs with those that it was written with. */
    static boolean isReflective(byte[] bytes) {
        String text = new String(bytes, StandardCharsets.ISO_8859_1);
        return text.contains("java/lang/reflect/") || text.contains("getModifiers") || text.contains("ObjectStreamClass");
    }

    /** A class of a unit, with checks; open: as in {@link Opener}. */
    static byte[] unit(byte[] bytes, boolean open) {
        return rewrite(bytes, open, writer -> new Rewriter(writer, null, null));
    }

    /** A class that JShell compiled, with checks, open, with its cell's lines and the real names of units' classes. */
    static byte[] snippet(byte[] bytes, Lines lines, Object wrapper, Map<String, String> aliases) {
        Remapper names = new SimpleRemapper(aliases);
        return rewrite(bytes, true, writer -> new ClassRemapper(new Rewriter(writer, lines, wrapper), names));
    }

    /** A class of a unit as later code is compiled against it: open, under other names. */
    static byte[] alias(byte[] bytes, Map<String, String> names) {
        return rewrite(bytes, true, writer -> new ClassRemapper(writer, new SimpleRemapper(names)));
    }

    private static byte[] rewrite(byte[] bytes, boolean open, UnaryOperator<ClassVisitor> steps) {
        ClassReader reader = new ClassReader(bytes);
        ClassWriter writer = new ClassWriter(ClassWriter.COMPUTE_MAXS);
        reader.accept(steps.apply(open ? new Opener(writer) : writer), 0);
        return writer.toByteArray();
    }

    /** Makes public what is not private: classes of one context have loaders of their own, between which only public members can be used. */
    private static final class Opener extends ClassVisitor {
        Opener(ClassVisitor next) {
            super(Opcodes.ASM9, next);
        }

        private static int open(int access) {
            return (access & Opcodes.ACC_PRIVATE) != 0 ? access : (access & ~Opcodes.ACC_PROTECTED) | Opcodes.ACC_PUBLIC;
        }

        @Override
        public void visit(int version, int access, String name, String signature, String parent, String[] interfaces) {
            super.visit(version, open(access), name, signature, parent, interfaces);
        }

        @Override
        public MethodVisitor visitMethod(int access, String name, String descriptor, String signature, String[] exceptions) {
            return super.visitMethod(name.equals("<clinit>") ? access : open(access), name, descriptor, signature, exceptions);
        }

        @Override
        public FieldVisitor visitField(int access, String name, String descriptor, String signature, Object value) {
            return super.visitField(open(access), name, descriptor, signature, value);
        }
    }

    /** Puts checks in; lines and file name become those of the user's cell when a wrapper of {@link Lines} is given. */
    private static final class Rewriter extends ClassVisitor {
        private final Lines lines;
        private final Object wrapper;
        private String file;

        Rewriter(ClassVisitor next, Lines lines, Object wrapper) {
            super(Opcodes.ASM9, next);
            this.lines = lines;
            this.wrapper = wrapper;
        }

        @Override
        public void visitSource(String name, String debug) {
            file = name; // written at the end, when a line has said which cell it is
        }

        @Override
        public MethodVisitor visitMethod(int access, String name, String descriptor, String signature, String[] exceptions) {
            return new Checks(super.visitMethod(access, name, descriptor, signature, exceptions), this);
        }

        int line(int wrapped) {
            if (wrapper == null) {
                return wrapped;
            }
            String cell = lines.file(wrapper, wrapped);
            file = cell == null ? file : cell;
            return lines.line(wrapper, wrapped);
        }

        @Override
        public void visitEnd() {
            super.visitSource(file, null);
            super.visitEnd();
        }
    }

    private static final class Checks extends MethodVisitor {
        private final Set<Label> passed = new HashSet<>();

        private final Rewriter owner;

        Checks(MethodVisitor next, Rewriter owner) {
            super(Opcodes.ASM9, next);
            this.owner = owner;
        }

        @Override
        public void visitLineNumber(int line, Label start) {
            int own = owner.line(line);
            if (own > 0) {
                super.visitLineNumber(own, start);
            }
        }

        private void check() {
            super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, "check", "()V", false);
        }

        @Override
        public void visitCode() {
            super.visitCode();
            check();
        }

        @Override
        public void visitLabel(Label label) {
            passed.add(label);
            super.visitLabel(label);
        }

        @Override
        public void visitJumpInsn(int opcode, Label target) {
            if (passed.contains(target)) {
                check();
            }
            super.visitJumpInsn(opcode, target);
        }

        @Override
        public void visitMethodInsn(int opcode, String owner, String name, String descriptor, boolean isInterface) {
            String receiver = REPLACED.get(owner + "." + name);
            if (receiver == null || opcode == Opcodes.INVOKESPECIAL) {
                super.visitMethodInsn(opcode, owner, name, descriptor, isInterface);
                return;
            }
            String guarded = opcode == Opcodes.INVOKESTATIC ? descriptor : "(" + receiver + descriptor.substring(1);
            super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, name, guarded, false);
        }
    }
}
