    uint32_t count = BEST;
    tofe_prediction best[BEST];
    const tofe_status status =
        tofe_classify_rgb(model, frame.pixels, frame.width, frame.height, 3 * (size_t)frame.width, best, &count);
    if (status != TOFE_OK) {
      result = failed(status);
      break;
    }
    for (uint32_t i = 0; i < count; ++i) {
      printf("%s%s %.1f%%", i ? ", " : "", tofe_label(model, best[i].index), 100 * (double)best[i].probability);
    }
