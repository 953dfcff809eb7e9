"""What tests share: real servers, real processes, and the ways to break them."""
