"""Pages in a real browser: Debian's Chromium without a display, and what is wrong with a page."""
