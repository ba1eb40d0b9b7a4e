package org.pytorch.executorch;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Answers inputs that the real runtime was asked before, and no others: a bit of difference in an input is an error. The
 * folder in the property {@code recorded} has a folder a method, in it a folder an input with {@code input},
 * {@code 0.f32} (logits) and {@code 1.i64} or {@code 1.f32}, … (selections).
 */
public class Module {
    public static final int LOAD_MODE_MMAP = 1;

    private boolean destroyed;

    public static Module load(String modelPath, int loadMode, int numThreads) {
        if (loadMode != LOAD_MODE_MMAP || !new File(modelPath).isFile()) throw new IllegalArgumentException(modelPath);
        return new Module();
    }

    public EValue[] execute(String methodName, EValue... inputs) {
        if (destroyed) throw new IllegalStateException("destroyed");
        Tensor input = inputs[0].toTensor();
        float[] values = input.getDataAsFloatArray();
        if (Arrays.stream(input.shape).reduce(1, (a, b) -> a * b) != values.length) throw new IllegalArgumentException("shape");
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        try {
            for (File one : new File(System.getProperty("recorded"), methodName).listFiles()) {
                if (Arrays.equals(Files.readAllBytes(new File(one, "input").toPath()), bytes.array())) return outputs(one);
            }
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
        throw new IllegalStateException("this input was not recorded");
    }

    private static EValue[] outputs(File folder) throws IOException {
        List<EValue> found = new ArrayList<>();
        for (int number = 0; ; number++) {
            File floats = new File(folder, number + ".f32");
            File longs = new File(folder, number + ".i64");
            if (floats.isFile()) {
                float[] data = new float[(int) floats.length() / 4];
                buffer(floats).asFloatBuffer().get(data);
                found.add(EValue.from(new Tensor.Floats(data, new long[] {data.length})));
            } else if (longs.isFile()) {
                long[] data = new long[(int) longs.length() / 8];
                buffer(longs).asLongBuffer().get(data);
                found.add(EValue.from(new Tensor.Longs(data)));
            } else {
                return found.toArray(new EValue[0]);
            }
        }
    }

    private static ByteBuffer buffer(File file) throws IOException {
        return ByteBuffer.wrap(Files.readAllBytes(file.toPath())).order(ByteOrder.LITTLE_ENDIAN);
    }

    public void destroy() {
        destroyed = true;
    }
}
