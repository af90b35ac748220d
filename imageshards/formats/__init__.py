"""The eight image formats: what each file says of itself, read from its bytes before a decoder gets them."""
