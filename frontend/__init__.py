"""The page that the server shows; a package, so that an installed oq finds it."""
