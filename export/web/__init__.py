"""A page that searches a gallery in the browser: :func:`demo_web`."""
