"""Where examples come from: packaged data sets, files, folders, arrays."""
