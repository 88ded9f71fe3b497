"""One module per page: `layout` draws it from the store, `register` keeps it live."""
