"""Following models while their owners' programs run them."""
