    const tofe_status status = tofe_values_rgb(model, frame.pixels, frame.width, frame.height, 3 * (size_t)frame.width, values,
                                               tofe_value_count(model));
    if (status != TOFE_OK) {
      result = failed(status);
      break;
    }
    /* One vector per line; features have a line per patch, row by row from the top left, and an empty one behind them. */
    const size_t size = tofe_vector_size(model), count = tofe_value_count(model);
    for (size_t i = 0; i < count; ++i) printf("%.6g%s", (double)values[i], (i + 1) % size ? " " : i + 1 < count ? "\n" : "");
    if (count > size) printf("\n");
