package org.pytorch.executorch;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Values that lie in memory of whoever made them; reading copies what is there at that time. */
public abstract class Tensor {
    final long[] shape;

    Tensor(long[] shape) {
        this.shape = shape;
    }

    public static Tensor fromBlob(float[] data, long[] shape) {
        return new Floats(FloatBuffer.wrap(data), shape);
    }

    public float[] getDataAsFloatArray() {
        throw new IllegalStateException("no floats");
    }

    public long[] getDataAsLongArray() {
        throw new IllegalStateException("no longs");
    }

    static final class Floats extends Tensor {
        private final FloatBuffer data;

        Floats(FloatBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        Floats(ByteBuffer memory) {
            this(memory.asFloatBuffer(), new long[] {memory.remaining() / 4});
        }

        @Override
        public float[] getDataAsFloatArray() {
            Module.takeTime();
            float[] values = new float[data.remaining()];
            data.duplicate().get(values);
            return values;
        }
    }

    static final class Longs extends Tensor {
        private final LongBuffer data;

        Longs(ByteBuffer memory) {
            super(new long[] {memory.remaining() / 8});
            this.data = memory.asLongBuffer();
        }

        @Override
        public long[] getDataAsLongArray() {
            Module.takeTime();
            long[] values = new long[data.remaining()];
            data.duplicate().get(values);
            return values;
        }
    }
}
