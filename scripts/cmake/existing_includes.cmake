# The ROS 2 wheels export targets whose include folders belong to the machine the wheels were made on; CMake
# stops at an include folder that does not exist. Passed as CMAKE_PROJECT_INCLUDE, this drops such folders from
# the imported targets once a package has found everything it needs. Generator expressions are left alone.

function(grape_keep_existing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(kept)
    foreach(folder IN LISTS folders)
      if(folder MATCHES "^\\$<" OR NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")
        list(APPEND kept "${folder}")
      endif()
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER CALL grape_keep_existing_includes)
