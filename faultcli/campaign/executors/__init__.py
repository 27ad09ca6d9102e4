"""Who runs the trials. Every executor gives the same records, bit for bit, in the order that was asked for."""
