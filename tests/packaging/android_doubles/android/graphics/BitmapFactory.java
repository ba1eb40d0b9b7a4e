package android.graphics;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.io.InputStream;
import javax.imageio.ImageIO;

public class BitmapFactory {
    public static class Options {
        public Bitmap.Config inPreferredConfig;
        public boolean inScaled = true;
    }

    public static Bitmap decodeStream(InputStream stream, Rect padding, Options options) {
        try {
            BufferedImage image = ImageIO.read(stream);
            if (image == null || options.inScaled) return null;
            int width = image.getWidth();
            int height = image.getHeight();
            int[] argb = image.getRGB(0, 0, width, height, null, 0, width);
            return new Bitmap(argb, width, height, options.inPreferredConfig);
        } catch (IOException error) {
            return null;
        }
    }
}
