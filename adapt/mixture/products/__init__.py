"""Ways to compute the gated sum of low-rank updates, `sum_e g_e s_e B_e A_e x`; all give the same numbers."""
