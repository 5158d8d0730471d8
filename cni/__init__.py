"""The CNI executable: frames one CNI call to the node's cnf and prints the answer. Imports no other package."""
