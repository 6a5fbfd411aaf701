"""The pool: the workers of one configuration, from fork to exit status, and the template that they are copies of."""
