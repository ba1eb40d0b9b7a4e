  float* const values = malloc(tofe_value_count(model) * sizeof(float));
  if (values == NULL) {
    fprintf(stderr, "@PROGRAM@: memory is used up\n");
    return TOFE_RUNTIME_ERROR;
  }
