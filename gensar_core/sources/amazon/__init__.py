"""Read the Amazon 2014 release and the product-search files of Ai et al."""
