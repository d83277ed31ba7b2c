"""POST /v1/classify: texts, series and audio in, labels out."""
