"""`simulate`: force-free MD with a model, from any start, in memory or as a file that can be continued."""
