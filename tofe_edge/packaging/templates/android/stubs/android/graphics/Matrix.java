package android.graphics;

public class Matrix {
    public native boolean postScale(float sx, float sy);

    public native boolean postRotate(float degrees);
}
