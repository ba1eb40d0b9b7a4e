  free(values);
