"""How one operation is computed: arrays in, arrays out, the GIL released in every inner loop."""
