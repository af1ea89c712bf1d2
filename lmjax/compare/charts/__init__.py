"""Charts as inline SVG: text in, text out, the same bytes for the same numbers."""
