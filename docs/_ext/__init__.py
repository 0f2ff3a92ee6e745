"""What turns the repository into the book: links, pages, the source tree that Sphinx reads."""
