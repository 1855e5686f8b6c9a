"""Tables, figures and the page; reads run folders, computes nothing."""
