// The program of README.md, in the project of README.md.
#include "../readme_example.cpp"
